"""Probes any Execution Broker from outside and says what it speaks and what it conforms to: `broker check URL`.

Stands between the command line and the server's parts: it uses the generated description (api/openapi) as the law,
the guarded decoders of the API, the domain, and of the client only login and errors. It never imports services, stores,
settings or adapters. `broker.checker.checking.check` is the one way in.
"""
