//! `pgark check`.

use super::CommandContext;
use super::output;
use pgark::check::{Finding, Verdict, run as look};
use pgark::error::Result;
use pgark::interruption::Interruption;
use serde::Serialize;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

pub const MORE_HELP: &str = "\
Exit status:
  0  all checks passed, perhaps with warnings
  2  wrong command line, configuration or setting of the server
  3  the server, the repository or another resource is unavailable
  4  damaged, conflicting or foreign data
If several checks fail, the highest status counts.

Examples:
  pgark check
  pgark check --json";

#[derive(Serialize)]
struct Findings {
    passed: bool,
    findings: Vec<Finding>,
}

pub fn run(context: &CommandContext) -> Result<ExitCode> {
    let config = context.config()?;
    let interrupted = AtomicBool::new(false);
    let mut findings = Vec::new();
    look(&config, &context.store(&config)?, &Interruption::new(&interrupted), &mut |finding| {
        if !context.output.is_json() {
            output::print(&text(&finding));
        }
        findings.push(finding);
    });
    let status = findings.iter().filter_map(|finding| finding.kind).map(|kind| kind.companion_status()).max();
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).count();
    let findings = Findings { passed: failed == 0, findings };
    context.output.result(&findings, || match failed {
        0 => "all checks passed".to_owned(),
        1 => "1 check failed".to_owned(),
        number => format!("{number} checks failed"),
    });
    Ok(ExitCode::from(status.unwrap_or_default()))
}

fn text(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Passed => "ok",
        Verdict::Warning => "warning",
        Verdict::Failed => "FAILED",
    };
    let hint = finding.hint.as_ref().map(|hint| format!("\n         HINT: {hint}")).unwrap_or_default();
    format!("{verdict:7}  {}: {}{hint}", finding.what, finding.detail)
}
