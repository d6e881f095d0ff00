"""Where an identity comes from and what it may be used for: consent records and the audit log."""
