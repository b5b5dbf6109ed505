//! Tells the source the target triple, which Cargo passes to build scripts only.

// Standard output is the way to talk to Cargo.
#![allow(clippy::print_stdout)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=TARGET_TRIPLE={}", std::env::var("TARGET").unwrap_or_default());
}
