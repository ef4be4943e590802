"""An attestation: a model against its fingerprint, check by check."""
