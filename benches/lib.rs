//! Nothing: the benches are in `benches/`. `cargo bench -p fornax-benches` runs them.
