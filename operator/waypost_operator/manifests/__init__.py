"""`waypost serve manifests`: the operator where there is no cluster, over a folder of manifests."""
