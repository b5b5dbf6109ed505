//! `archive-push %p`: what PostgreSQL's archiver calls for each WAL file.
fn main() {}
