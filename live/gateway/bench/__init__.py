"""What the gateway costs, beside nginx, HAProxy and Envoy in the same run: `python -m live.gateway.bench`."""
