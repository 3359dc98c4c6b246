"""Shells around waypost_config: a folder of manifests now, Kubernetes later."""
