"""Broker, engine and store on loopback, each a child process, for `weir demo` and the tests.

Nothing here knows the service: each module starts one server and says where it listens.
"""
