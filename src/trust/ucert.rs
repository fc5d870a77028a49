//! Chains of certificates as `ucert` writes them, and revocations.
