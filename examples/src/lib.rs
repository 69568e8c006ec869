//! One runnable program per idea.
