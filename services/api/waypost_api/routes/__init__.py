"""Routes of the API, a file a resource."""
