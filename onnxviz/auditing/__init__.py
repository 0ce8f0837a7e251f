"""Audits: checks with evidence, findings, verdict and report; also what `comparing` reports through."""
