"""Training, validation and scoring of what the policy learns."""
