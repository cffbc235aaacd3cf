"""Retinue's client library: generated stubs, `retinue.client` and `retinue.errors`."""
