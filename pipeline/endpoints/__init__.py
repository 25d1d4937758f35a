"""The inference protocols: one file each, a pair of pure functions over one HTTP client.

`kinds.py` is the table of protocols. `encode(endpoint, requests)` gives the call;
`decode(endpoint, count, status, headers, body)` gives one answer or failure per request, in their
order, or raises EndpointError for the whole call. The client, the retries and the limits exist
once, elsewhere.
"""
