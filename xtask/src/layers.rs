//! Holds the layers: every crate says which one it is in, and depends only on crates below it.
//!
//! A crate says so in its manifest, `[package.metadata.fornax] layer = N`. Normal and build dependencies go to a
//! strictly lower layer. Dev-dependencies reach nobody who uses the crate, so they may also stay within the layer,
//! but they do not go up: a test that needs a higher crate belongs to that crate.
//! What a crate may take from outside the workspace is not decided here; `deny.toml` does that.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use cargo_metadata::DependencyKind;

use crate::workspace::Workspace;

/// One package of the workspace, as far as the layers are concerned.
#[derive(Clone, Debug)]
pub struct Crate {
    /// The package's name.
    pub name: String,
    /// Its place in the house.
    pub place: Place,
    /// The packages of the workspace that it depends on, optional and per-platform ones included.
    pub edges: Vec<Edge>,
}

/// Where a package stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A crate under `crates/` that declares its layer.
    Layer(u64),
    /// A crate under `crates/` that does not, or not with a whole number.
    Undeclared,
    /// A package outside `crates/`: it may depend on every crate, and none may depend on it.
    Tool,
}

/// A dependency on another package of the workspace.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The package depended on.
    pub to: String,
    /// Whether it is for the package's tests, examples and benches only.
    pub dev: bool,
}

/// One breach of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A crate that does not declare its layer.
    Undeclared {
        /// The crate.
        name: String,
    },
    /// A dependency that does not go down.
    NotDown {
        /// The crate that depends, with its layer.
        from: (String, u64),
        /// The crate depended on, with its layer.
        to: (String, u64),
        /// Whether it is a dev-dependency.
        dev: bool,
    },
    /// A crate that depends on one of the workspace's tools.
    OnTool {
        /// The crate that depends.
        from: String,
        /// The tool.
        to: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undeclared { name } => write!(
                f,
                "{name} declares no layer: add `[package.metadata.fornax]` with `layer = N` to its Cargo.toml"
            ),
            Self::NotDown { from: (from, above), to: (to, below), dev } => {
                let direction = if above == below { "sideways" } else { "up" };
                let edge = if *dev { "dev-dependency" } else { "dependency" };
                write!(
                    f,
                    "{from} (layer {above}) has a {edge} on {to} (layer {below}), which goes {direction}: move what \
                     both need to a lower crate, or the code that needs {to} to a higher one"
                )
            }
            Self::OnTool { from, to } => {
                write!(f, "{from} depends on {to}, which is a tool outside crates/: move what it needs into a crate")
            }
        }
    }
}

/// The packages of `workspace`, by name.
pub fn read(workspace: &Workspace) -> Vec<Crate> {
    let mut crates: Vec<Crate> = workspace
        .packages()
        .iter()
        .map(|package| Crate {
            name: package.name.to_string(),
            place: if !workspace.is_layered(package) {
                Place::Tool
            } else {
                // Indexing a JSON value that is not there gives null, which is no number either.
                package.metadata["fornax"]["layer"].as_u64().map_or(Place::Undeclared, Place::Layer)
            },
            // A dependency of the workspace is one by path; a package of crates.io may share its name.
            edges: package
                .dependencies
                .iter()
                .filter(|dependency| dependency.path.is_some())
                .map(|dependency| Edge {
                    to: dependency.name.clone(),
                    dev: dependency.kind == DependencyKind::Development,
                })
                .collect(),
        })
        .collect();
    crates.sort_by(|a, b| a.name.cmp(&b.name));
    crates
}

/// Every breach of the rule among `crates`, in their order.
pub fn violations(crates: &[Crate]) -> Vec<Violation> {
    let places: HashMap<&str, Place> = crates.iter().map(|krate| (krate.name.as_str(), krate.place)).collect();
    let mut found = Vec::new();
    for krate in crates {
        if krate.place == Place::Undeclared {
            found.push(Violation::Undeclared { name: krate.name.clone() });
        }
        if krate.place == Place::Tool {
            continue;
        }
        for edge in &krate.edges {
            match (krate.place, places.get(edge.to.as_str())) {
                (_, Some(Place::Tool)) => {
                    found.push(Violation::OnTool { from: krate.name.clone(), to: edge.to.clone() });
                }
                (Place::Layer(above), Some(&Place::Layer(below))) if above < below || (above == below && !edge.dev) => {
                    found.push(Violation::NotDown {
                        from: (krate.name.clone(), above),
                        to: (edge.to.clone(), below),
                        dev: edge.dev,
                    });
                }
                // A crate without a layer has been reported for that; its edges are judged once it has one.
                _ => {}
            }
        }
    }
    found
}

/// The crates by layer, the highest first, each with what it stands on.
pub fn table(crates: &[Crate]) -> String {
    let mut layers: BTreeMap<u64, Vec<&Crate>> = BTreeMap::new();
    for krate in crates {
        if let Place::Layer(layer) = krate.place {
            layers.entry(layer).or_default().push(krate);
        }
    }
    let width = crates.iter().map(|krate| krate.name.len()).max().unwrap_or(0);
    let mut table = format!("layer  {:width$}  depends on\n", "crate");
    for (layer, crates) in layers.iter().rev() {
        for krate in crates {
            let mut on: Vec<&str> = krate.edges.iter().filter(|edge| !edge.dev).map(|edge| short(&edge.to)).collect();
            on.sort_unstable();
            on.dedup();
            let line = format!("{layer:>5}  {:width$}  {}", krate.name, on.join(", "));
            table.push_str(line.trim_end());
            table.push('\n');
        }
    }
    table
}

/// A crate's name without the prefix that they all share.
fn short(name: &str) -> &str {
    name.strip_prefix("fornax-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn krate(name: &str, place: Place, edges: &[(&str, bool)]) -> Crate {
        Crate { name: name.into(), place, edges: edges.iter().map(|&(to, dev)| Edge { to: to.into(), dev }).collect() }
    }

    fn messages(crates: &[Crate]) -> Vec<String> {
        violations(crates).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn edges_that_go_down_are_fine() {
        let crates = [
            krate("text", Place::Layer(0), &[]),
            krate("nn", Place::Layer(3), &[("text", false)]),
            krate("models", Place::Layer(4), &[("nn", false), ("text", true)]),
            krate("xtask", Place::Tool, &[("models", false)]),
        ];
        assert_eq!(messages(&crates), Vec::<String>::new());
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        let crates = [krate("nn", Place::Undeclared, &[])];
        assert_eq!(violations(&crates), [Violation::Undeclared { name: "nn".into() }]);
        assert!(messages(&crates)[0].contains("[package.metadata.fornax]"));
    }

    #[test]
    fn an_edge_within_a_layer_is_refused() {
        let crates = [krate("train", Place::Layer(5), &[("engine", false)]), krate("engine", Place::Layer(5), &[])];
        let found = violations(&crates);
        assert_eq!(found, [Violation::NotDown { from: ("train".into(), 5), to: ("engine".into(), 5), dev: false }]);
        assert!(found[0].to_string().contains("sideways"));
    }

    #[test]
    fn an_edge_to_a_higher_layer_is_refused() {
        let crates = [krate("nn", Place::Layer(3), &[("models", false)]), krate("models", Place::Layer(4), &[])];
        let found = violations(&crates);
        assert_eq!(found, [Violation::NotDown { from: ("nn".into(), 3), to: ("models".into(), 4), dev: false }]);
        assert!(found[0].to_string().contains("goes up"));
    }

    #[test]
    fn tests_may_use_a_neighbour_but_nothing_above() {
        let neighbour = [krate("hub", Place::Layer(0), &[("text", true)]), krate("text", Place::Layer(0), &[])];
        assert_eq!(messages(&neighbour), Vec::<String>::new());
        let above = [krate("hub", Place::Layer(0), &[("nn", true)]), krate("nn", Place::Layer(3), &[])];
        assert!(messages(&above)[0].contains("dev-dependency on nn"));
    }

    #[test]
    fn a_crate_on_a_tool_is_refused() {
        let crates = [krate("nn", Place::Layer(3), &[("xtask", true)]), krate("xtask", Place::Tool, &[])];
        assert_eq!(violations(&crates), [Violation::OnTool { from: "nn".into(), to: "xtask".into() }]);
    }

    /// The rule over the workspace as it is: this is the test that holds the layers.
    #[test]
    fn this_workspace_keeps_its_layers() {
        let workspace = Workspace::read().expect("cargo metadata reads this workspace");
        let crates = read(&workspace);
        let layered = crates.iter().filter(|krate| matches!(krate.place, Place::Layer(_))).count();
        assert!(layered >= 9, "only {layered} crates were read from crates/");
        assert!(crates.iter().any(|krate| krate.name == "xtask" && krate.place == Place::Tool));
        assert_eq!(messages(&crates), Vec::<String>::new());
    }

    #[test]
    fn a_violation_planted_in_this_workspace_is_found() {
        let workspace = Workspace::read().expect("cargo metadata reads this workspace");
        let mut crates = read(&workspace);
        let nn = crates.iter_mut().find(|krate| krate.name == "fornax-nn").expect("the crate of layers");
        nn.edges.push(Edge { to: "fornax-models".into(), dev: false });
        let found = messages(&crates);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("fornax-nn (layer 3)") && found[0].contains("goes up"), "{found:?}");
    }

    #[test]
    fn the_table_shows_the_highest_layer_first() {
        let crates = [
            krate("fornax-nn", Place::Layer(3), &[]),
            krate("fornax-models", Place::Layer(4), &[("fornax-nn", false), ("fornax-text", true)]),
        ];
        let table = table(&crates);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[1], "    4  fornax-models  nn");
        assert_eq!(lines[2], "    3  fornax-nn");
    }
}
