//! The replicated state: tables, overlay, operations, evaluation, apply, snapshots. Pure.
