//! Compiles the trainer's kernels for this machine, and a table of their names.

#[path = "../kernel_sources.rs"]
mod kernel_sources;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use kernel_sources::{HEADERS, find_kernels, kernel_name};

const COMPUTE: &str = "..";

fn main() -> io::Result<()> {
    let compute = Path::new(COMPUTE);
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut sources = find_kernels(&compute.join("src"))?;
    watch_inputs(compute, &sources);
    sources.push("shim/faulty.cu".into());
    sources.sort();
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag("-fno-strict-aliasing")
        .flag("-fno-math-errno");

    build
        .flag("-ffp-contract=off")
        .warnings(false)
        .include("shim")
        .include(compute.join(HEADERS));

    build.flag("-Wno-unknown-pragmas").file("shim/run.cpp");
    for source in &sources {
        build.file(wrap(source, &out)?);
    }

    build.file(list(&sources, &out)?).compile("kernels");
    Ok(())
}

/// Has cargo run this again when a kernel changes or an operation is added, but not for every Rust file: that
/// would compile all kernels again after each edit.
fn watch_inputs(compute: &Path, sources: &[PathBuf]) {
    let headers = compute.join(HEADERS);
    let operations = compute.join("src/ops.rs");
    let shim = PathBuf::from("shim");
    for watched in [&headers, &operations, &shim].into_iter().chain(sources) {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
}

/// A source file with the table of its kernels behind it.
fn wrap(source: &Path, out: &Path) -> io::Result<PathBuf> {
    let stem = kernel_name(source);
    let code = fs::read_to_string(source)?;
    let mut text = format!(
        "#include \"device.h\"\n#include \"{}\"\n",
        source.canonicalize()?.display()
    );

    text += &format!("extern const Kernel {stem}_kernels[] = {{\n");
    for name in code
        .lines()
        .filter_map(|line| between(line, "EXPORT(", ","))
    {
        for format in ["f32", "bf16"] {
            text += &format!("    kernel<&of_{format}::{name}_{format}>(\"{name}_{format}\"),\n");
        }
    }

    for name in code
        .lines()
        .filter_map(|line| between(line, "extern \"C\" __global__ void ", "("))
    {
        text += &format!("    kernel<&{name}>(\"{name}\"),\n");
    }

    text += "    {nullptr, nullptr, nullptr},\n};\n";
    write(out.join(format!("{stem}.cpp")), &text)
}

/// The table of the tables.
fn list(sources: &[PathBuf], out: &Path) -> io::Result<PathBuf> {
    let names: Vec<String> = sources
        .iter()
        .map(|source| format!("{}_kernels", kernel_name(source)))
        .collect();

    let mut text = "#include \"device.h\"\n".to_owned();
    names
        .iter()
        .for_each(|name| text += &format!("extern const Kernel {name}[];\n"));

    text += &format!(
        "extern const Kernel *const ALL_KERNELS[] = {{{}, nullptr}};\n",
        names.join(", ")
    );

    write(out.join("all_kernels.cpp"), &text)
}

fn write(path: PathBuf, text: &str) -> io::Result<PathBuf> {
    fs::write(&path, text)?;
    Ok(path)
}

/// What stands at the beginning of a line between two words.
fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(line.strip_prefix(before)?.split_once(after)?.0.trim())
}
