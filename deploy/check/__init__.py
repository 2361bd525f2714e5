"""What can be known of the containers and manifests without a container runtime or a cluster: `make check-deploy`.

Nothing here imports the service. What the code says, its commands are asked for.
"""
