//! Lists the tests of the operations, and compiles the kernels for NVIDIA GPUs, the latter under the feature `cuda`
//! only: machine code for Hopper, and code that the driver compiles for every other GPU from Ampere on.

mod kernel_sources;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io, thread};

use kernel_sources::{HEADERS, find_kernels, kernel_name};

/// A compiled file: its name, and the bytes that each kernel in it spills.
type Compiled = (String, Vec<(String, u32)>);

#[expect(
    clippy::print_stderr,
    reason = "cargo shows what a build script says there when it fails"
)]
fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/ops");
    if let Err(error) = list_operation_tests() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }

    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }

    for name in ["CUDA_HOME", "NVCC_CCBIN"] {
        println!("cargo:rerun-if-env-changed={name}");
    }

    for folder in ["src/device", HEADERS] {
        println!("cargo:rerun-if-changed={folder}");
    }

    if let Err(error) = compile_all() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }

    ExitCode::SUCCESS
}

/// Writes a module for the `tests.rs` of every operation, which `tests/operations/main.rs` includes: an operation
/// without tests does not compile.
fn list_operation_tests() -> Result<(), String> {
    let folder = Path::new("src/ops");
    let entries = fs::read_dir(folder).map_err(at_path(folder))?;
    let mut modules = Vec::new();

    for entry in entries {
        let path = entry.map_err(at_path(folder))?.path();
        if !path.is_dir() {
            continue;
        }

        let tests = path.join("tests.rs");
        let file = fs::canonicalize(&tests).map_err(at_path(&tests))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        modules.push(format!("#[path = {file:?}]\nmod {name};\n"));
    }

    modules.sort();

    let list = out_dir().join("operation_tests.rs");
    fs::write(&list, modules.concat()).map_err(at_path(&list))
}

/// Compiles every file, as many at once as there are cores, and writes the table of them.
fn compile_all() -> Result<(), String> {
    let out = out_dir();
    let sources = find_kernels(Path::new("src"))
        .map_err(|error| format!("cannot read the folder trainer/compute/src: {error}"))?;

    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut files = Vec::new();

    for sources in sources.chunks(workers) {
        files.extend(compile_some(sources, &out)?);
    }

    let table = out.join("kernels.rs");
    fs::write(&table, write_table(&files)).map_err(at_path(&table))
}

/// Where cargo lets this script write.
fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default())
}

/// Adds the file to an error of the system.
fn at_path(path: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

fn compile_some(sources: &[PathBuf], out: &Path) -> Result<Vec<Compiled>, String> {
    thread::scope(|scope| {
        let threads: Vec<_> = sources
            .iter()
            .map(|source| scope.spawn(|| compile(source, out)))
            .collect();

        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread of the build script died".into()))
        };

        threads.into_iter().map(join).collect()
    })
}

fn compile(source: &Path, out: &Path) -> Result<Compiled, String> {
    let name = kernel_name(source);

    let compiler = env::var_os("CUDA_HOME").map_or_else(
        || PathBuf::from("nvcc"),
        |home| PathBuf::from(home).join("bin/nvcc"),
    );

    let target = out.join(&name).with_extension("fatbin");
    let done = Command::new(&compiler)
        .arg("-fatbin")
        .arg("-std=c++17")
        .arg("-O3")
        .args(["-Werror", "all-warnings"])
        .args(["-Xptxas", "-v"])
        .args(["-gencode", "arch=compute_90a,code=sm_90a"])
        .args(["-gencode", "arch=compute_80,code=compute_80"])
        .args(["-I", HEADERS])
        .arg("-o")
        .arg(target)
        .arg(source)
        .output();

    let done = done.map_err(|error| {
        let compiler = compiler.display();
        format!(
            "cannot run {compiler}: {error}. The feature `cuda` needs NVIDIA's compiler 13.0 or \
             newer: set CUDA_HOME to a toolkit, or to what packaging/cuda/toolkit prints"
        )
    })?;

    let words = String::from_utf8_lossy(&done.stderr).into_owned();
    match done.status.success() {
        true => Ok((name, read_spills(&words))),
        false => Err(format!("{} does not compile:\n{words}", source.display())),
    }
}

/// The kernels in the assembler's output, and the bytes of registers that each spills to memory.
fn read_spills(words: &str) -> Vec<(String, u32)> {
    let mut kernels: Vec<(String, u32)> = Vec::new();
    for line in words.lines() {
        if let Some(name) = between(line, "Compiling entry function '", "'") {
            kernels.push((name.to_owned(), 0));
        }

        let spilled = between(line, "stack frame, ", " bytes spill stores");
        if let (Some(count), Some(kernel)) = (spilled, kernels.last_mut()) {
            kernel.1 += count.parse::<u32>().unwrap_or(u32::MAX);
        }
    }

    kernels
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(line.split_once(before)?.1.split_once(after)?.0)
}

/// Rust code with all compiled files, and with what their kernels spill.
fn write_table(files: &[Compiled]) -> String {
    let mut code = "const IMAGES: &[(&str, &[u8])] = &[\n".to_owned();
    for (name, _) in files {
        let path = format!("concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\")");
        code += &format!("    (\"{name}\", &Aligned(*include_bytes!({path})).0),\n");
    }

    code += "];\n#[cfg(test)]\nconst SPILLS: &[(&str, u32)] = &[\n";
    for (name, bytes) in files.iter().flat_map(|(_, kernels)| kernels) {
        code += &format!("    (\"{name}\", {bytes}),\n");
    }

    code + "];\n"
}
