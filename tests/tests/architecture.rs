//! The architecture as ARCHITECTURE.md draws it, read off the source: which folder must not know what, and no
//! import cycle between the modules of a crate.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders or files, and words that none of them may use outside of tests.
struct Purity {
    paths: &'static [&'static str],
    forbidden: &'static [&'static str],
}

const PURITY: [Purity; 6] = [
    // The contract talks to nobody; the trainer knows no Kubernetes; the operator no tensor.
    Purity {
        paths: &["crds/src"],
        forbidden: &["tokio", "kube::Client", "candle", "std::fs"],
    },
    Purity {
        paths: &["trainer"],
        forbidden: &["kube::", "k8s_openapi"],
    },
    Purity {
        paths: &["operator/src"],
        forbidden: &["candle", "cnclip::", "object_store"],
    },
    // Models and operations know devices, but no vendor's.
    Purity {
        paths: &[
            "trainer/compute/src/device.rs",
            "trainer/compute/src/device",
            "trainer/compute/src/ops",
            "trainer/compute/src/tensor.rs",
            "trainer/compute/src/tensor",
            "trainer/nn/src",
        ],
        forbidden: &[
            "cudarc",
            "crate::cuda",
            "compute::cuda",
            "feature = \"cuda\"",
        ],
    },
    // Decisions have no client, no clock and no wait.
    Purity {
        paths: &[
            "operator/src/plan.rs",
            "operator/src/plan",
            "operator/src/objects",
            "operator/src/status",
        ],
        forbidden: &[
            "kube::Client",
            "Client,",
            "tokio",
            "Instant",
            "SystemTime",
            "Timestamp::now",
        ],
    },
    // Mathematics and pixels read and write nothing.
    Purity {
        paths: &[
            "trainer/compute/src/ops",
            "trainer/compute/src/params.rs",
            "trainer/nn/src",
            "trainer/data/src/image",
            "trainer/data/src/image.rs",
            "trainer/data/src/tokenizer.rs",
        ],
        forbidden: &["std::fs", "crate::store", "tokio", "Instant", "SystemTime"],
    },
];

/// The crates whose modules must not import each other in a circle.
const CRATES: [&str; 10] = [
    "crds/src",
    "operator/src",
    "trainer/compute/src",
    "trainer/compute/emulator/src",
    "trainer/data/src",
    "trainer/distributed/src",
    "trainer/nn/src",
    "trainer/oracle/src",
    "trainer/src",
    "tests/fuzz/src",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file at a path, tests apart.
fn source_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }

    if ["tests", "benches", "examples"]
        .iter()
        .any(|name| path.ends_with(name))
    {
        return Vec::new();
    }

    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut found: Vec<_> = entries
        .flat_map(|entry| source_files(&entry.unwrap().path()))
        .collect();

    found.retain(|file| {
        file.extension().is_some_and(|end| end == "rs") && !file.ends_with("tests.rs")
    });

    found
}

/// The lines of code before a file's tests.
fn production_code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));

    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn no_folder_knows_what_it_must_not() {
    let mut broken = Vec::new();
    for Purity { paths, forbidden } in PURITY {
        for file in paths
            .iter()
            .flat_map(|path| source_files(&root().join(path)))
        {
            let code = production_code(&file);
            let words = forbidden.iter().filter(|word| code.contains(**word));
            broken.extend(words.map(|word| format!("{} uses {word}", file.display())));
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_trainer_is_built_without_the_contracts_kubernetes() {
    for manifest in [
        "trainer",
        "trainer/compute",
        "trainer/data",
        "trainer/distributed",
        "trainer/nn",
        "trainer/oracle",
    ] {
        let manifest = root().join(manifest).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(
            text.contains("cnclip-crds.workspace = true"),
            "{manifest:?}: the contract as it is, no feature"
        );

        assert!(
            !text.contains("kube"),
            "{manifest:?}: no crate of Kubernetes"
        );
    }
}

/// For each top-level module of a crate, those that it imports.
type ModuleGraph = BTreeMap<String, BTreeSet<String>>;

/// The top-level modules named by `crate::…` paths, in braces or not.
fn imported_modules(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        if let Some(list) = path.strip_prefix('{') {
            found.extend(first_segments(list));
        } else {
            found.extend(first_segment(path));
        }
    }

    found
}

fn first_segment(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let name = &path[..end];
    // What begins with a capital letter is an item of the crate's root.
    name.starts_with(char::is_lowercase)
        .then(|| name.to_owned())
}

/// The first segment of each path of a list in braces.
fn first_segments(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut found = Vec::new();
    let mut start = 0;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.extend(first_segment(list[start..=at].trim_start()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.extend(first_segment(list[start..=at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
    }

    found
}

fn module_graph(crate_folder: &str) -> ModuleGraph {
    let folder = root().join(crate_folder);
    let mut graph = ModuleGraph::new();
    for file in source_files(&folder) {
        let path = file.strip_prefix(&folder).unwrap();
        let first = path.iter().next().unwrap().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }

        // Beside the crate's root, `super` is that root.
        let mut code = production_code(&file);
        if path.components().count() == 1 {
            code = code.replace("super::", "crate::");
        }

        let imported = imported_modules(&code);
        graph.entry(module).or_default().extend(imported);
    }

    for (module, imported) in &mut graph {
        imported.remove(module);
    }

    graph
}

/// Every module that can be reached from one.
fn reachable(graph: &ModuleGraph, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(module) = open.pop() {
        for next in graph.get(&module).into_iter().flatten() {
            if found.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }

    found
}

/// The modules of a graph that import themselves by way of others.
fn modules_in_cycles(graph: &ModuleGraph) -> Vec<&String> {
    graph
        .keys()
        .filter(|module| reachable(graph, module).contains(*module))
        .collect()
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let mut broken = Vec::new();
    for folder in CRATES {
        let graph = module_graph(folder);
        assert!(!graph.is_empty(), "{folder} has modules");
        for module in modules_in_cycles(&graph) {
            broken.push(format!("{folder}: {module} -> {:?}", graph[module]));
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_circle_of_three_modules_is_found_and_what_leads_to_it_is_not_part_of_it() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")];
    let mut graph = ModuleGraph::new();
    for (from, to) in edges {
        graph.entry(from.into()).or_default().insert(to.into());
    }

    assert_eq!(modules_in_cycles(&graph), ["a", "b", "c"]);
    let code = "use crate::{one::{X, Y}, two};\nlet x = crate::three::f(crate::Z);";
    let expected = ["one", "two", "three"].map(str::to_owned);
    assert_eq!(imported_modules(code), BTreeSet::from(expected));
}
