"""What runs Weir: embedded servers, shipped pipelines and traffic, and the manifests that put them in production."""
