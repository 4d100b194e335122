//! Installs the operator from the chart, as a user would, once for each test program.

use std::{path::Path, process::Command, sync::Mutex};

use anyhow::{Context, ensure};
use kube::Client;

use crate::testbed::Testbed;

/// The operator's namespace.
pub const NAMESPACE: &str = "cnclip-system";
/// Name of the Helm release, and of its Deployment.
pub const RELEASE: &str = "cnclip";

static INSTALLED: Mutex<bool> = Mutex::new(false);

/// Returns the testbed with a running operator, and a client with an administrator's permissions.
///
/// # Errors
/// When no testbed is running, or Helm fails.
pub async fn install_operator() -> anyhow::Result<(Testbed, Client)> {
    let testbed = Testbed::from_env()?;
    install_once(&testbed)?;
    let client = testbed.client().await?;
    Ok((testbed, client))
}

fn install_once(testbed: &Testbed) -> anyhow::Result<()> {
    let mut installed = INSTALLED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);

    if !*installed {
        install_chart(testbed)?;
        *installed = true;
    }

    Ok(())
}

/// The folder of the chart.
pub fn chart_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/cn-clip"))
}

fn install_chart(testbed: &Testbed) -> anyhow::Result<()> {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: cnclip-system\n  labels: \
                     {pod-security.kubernetes.io/enforce: restricted}\n";
    run_command(
        Command::new(&testbed.kubectl)
            .args(["apply", "--server-side", "--filename", "-"])
            .env("KUBECONFIG", &testbed.kubeconfig),
        namespace,
    )?;

    let images = [
        format!("image.operator={}", testbed.images.operator),
        format!("image.trainer={}", testbed.images.trainer),
    ];

    run_command(
        Command::new(&testbed.helm)
            .args(["upgrade", "--install", RELEASE])
            .arg(chart_folder())
            .args(["--namespace", NAMESPACE, "--wait", "--timeout", "2m"])
            .args(["--set", "progressIntervalSeconds=1"])
            .args(images.iter().flat_map(|image| ["--set", image]))
            .env("KUBECONFIG", &testbed.kubeconfig),
        "",
    )
    .map(drop)
}

/// Runs a program with a standard input; returns its standard output.
///
/// # Errors
/// When it cannot be started or exits with another code than 0; with its error output.
pub fn run_command(command: &mut Command, input: &str) -> anyhow::Result<String> {
    use std::{io::Write, process::Stdio};
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;

    child
        .stdin
        .take()
        .context("stdin is piped")?
        .write_all(input.as_bytes())?;

    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} exited with {}: {stderr}",
        output.status
    );

    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
