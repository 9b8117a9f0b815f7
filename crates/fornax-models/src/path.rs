//! The dotted name of a parameter while a module is walked, such as `layers.3.mlp.up.weight`. What is done with a
//! parameter there is the walker's matter.

/// Where a walk over a module is.
#[derive(Debug, Default)]
pub(crate) struct ParameterPath(Vec<String>);

impl ParameterPath {
    /// Goes into a field, an element or a variant, as burn announces it.
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        if !is_variant(container) {
            self.0.push(name.to_owned());
        }
    }

    /// Comes out again.
    pub(crate) fn exit(&mut self, container: &str) {
        if !is_variant(container) {
            self.0.pop();
        }
    }

    /// The parameter's name.
    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Which variant an enum has is not part of a parameter's name.
fn is_variant(container: &str) -> bool {
    container.starts_with("Enum:")
}
