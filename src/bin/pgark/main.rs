//! `pgark`: the companion that an operator calls.
fn main() {}
