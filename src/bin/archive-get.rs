//! `archive-get %f %p`: what PostgreSQL's startup process calls for each WAL file that it wants.
fn main() {}
