//! Decides how the cluster is restored and configured. Pure: reads nothing but its input.

use super::collations;
use super::databases::OmittedDatabases;
use super::host_configuration::{archiving_note, place};
use super::planned::{ConfigFile, RecoveryPlan};
use super::request::RecoverRequest;
use super::survey::Survey;
use crate::durable::parent_directory;
use crate::error::Result;
use crate::postgres::{TargetAction, TargetSettings, TargetTimeline};
use crate::recover::place::tablespaces::{in_place_note, tablespaces_in_place};
use crate::recover::server::settings::{RecoveryPath, RecoveryScope, RecoverySettings, restore_command};
use crate::recover::server::standby::Role;
use crate::recover::target::TargetPlan;
use crate::repository::backup::manifest::StoredBackup;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Makes the plan from the survey.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a path that no setting can hold;
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for an invalid version in the manifest.
pub fn decide(request: &RecoverRequest, survey: Survey) -> Result<RecoveryPlan> {
    let (config_path, config_file) = match &survey.own_configuration {
        Some(path) => (path.clone(), ConfigFile::OfHost),
        None => (beside(&request.data_directory, "", ".pgark.toml"), ConfigFile::OfCopy),
    };
    let spool = request
        .spool_directory
        .clone()
        .unwrap_or_else(|| beside(&request.data_directory, ".", ".pgark-spool"));
    let config = request.config.of_recovered(&request.data_directory, &spool, survey.system)?;
    let settings = settings(request, &survey, &config_path)?;
    let configuration_copies = beside(&request.data_directory, "", ".configuration");
    let warnings = warnings(request, &survey, &settings, &configuration_copies)?;
    Ok(RecoveryPlan {
        backup: survey.chain.newest().clone(),
        target: survey.target,
        chain: survey.chain,
        left_out: survey.left_out,
        system: survey.system,
        destinations: survey.destinations,
        found: survey.found,
        tablespaces_found: survey.tablespaces_found,
        settings,
        config,
        config_path,
        config_file,
        configuration_copies,
        warnings,
    })
}

/// The settings for the server; its programs read `config_path`.
fn settings(request: &RecoverRequest, survey: &Survey, config_path: &Path) -> Result<RecoverySettings> {
    let (target, backup) = (&survey.target, survey.backup());
    let archive_get = &request.archive_get;
    let path = RecoveryPath {
        timeline: target.history.timeline(),
        proven_end: target.expected.unproven.is_none().then_some(target.last_segment),
    };
    Ok(RecoverySettings {
        restore_command: restore_command(
            archive_get,
            config_path,
            &request.role,
            &target.settings.target,
            path,
        )?,
        target: target_settings(target, &request.role),
        role: request.role.clone(),
        archiving: request.archiving,
        place: place(&request.config, &request.data_directory, request.archiving, archive_get, config_path)?,
        part: if survey.left_out.is_empty() { RecoveryScope::Whole } else { RecoveryScope::SomeDatabases },
        in_place_tablespaces: target.new_in_place_tablespace || tablespaces_in_place(backup).next().is_some(),
        limits: target.limits.map_or(backup.limits(), |raised| raised.max(backup.limits())),
        version: backup.major_version()?,
    })
}

/// The server's target settings. A standby has none: it follows every promotion.
fn target_settings(target: &TargetPlan, role: &Role) -> TargetSettings {
    match role {
        Role::Recovered => target.settings.clone(),
        Role::Standby(_) => TargetSettings {
            timeline: TargetTimeline::Latest,
            action: TargetAction::Pause,
            ..target.settings.clone()
        },
    }
}

/// All warnings, in the order in which they are shown.
fn warnings(
    request: &RecoverRequest,
    survey: &Survey,
    settings: &RecoverySettings,
    configuration_copies: &Path,
) -> Result<Vec<String>> {
    let backup = survey.backup();
    let mut warnings = warnings_of_backup(&survey.target, backup, configuration_copies);
    let version = backup.server_version()?;
    if version.is_assumed() {
        warnings.push(format!("pgark does not know this version: PostgreSQL {version}"));
    }
    warnings.extend(collations::note(backup, survey.c_library.as_deref(), &request.role));
    warnings.extend(settings.in_place_tablespaces.then(|| in_place_note(backup)));
    warnings.extend(survey.unusable.iter().cloned());
    warnings.extend(part_warning(&survey.left_out));
    warnings.extend(survey.lost.iter().cloned());
    warnings.extend(archiving_note(&settings.place));
    Ok(warnings)
}

fn warnings_of_backup(target: &TargetPlan, backup: &StoredBackup, copies: &Path) -> Vec<String> {
    let mut warnings = target.warnings.clone();
    if let Some(reason) = &target.expected.unproven {
        warnings.push(format!("it is not proven that the target can be reached: {reason}"));
    }
    if backup.damaged_pages.count > 0 {
        warnings.push(format!(
            "the backup holds {} pages that were already damaged in the original cluster",
            backup.damaged_pages.count
        ));
    }
    if backup.lacks_visibility_maps() {
        warnings.push(
            "the cluster had no data checksums, so its incremental backups hold no visibility maps: run VACUUM afterwards, or \
             index-only scans are slow"
                .to_owned(),
        );
    }
    for file in &backup.configuration_files {
        let path = &file.path;
        warnings.push(match &file.content {
            Some(_) => {
                format!(
                    "\"{path}\" was outside the data directory; a copy is written to \"{}\"",
                    copies.display()
                )
            }
            None => format!("\"{path}\" was outside the data directory, and the backup has no copy of it"),
        });
    }
    warnings
}

/// A warning about the omitted databases.
fn part_warning(left_out: &OmittedDatabases) -> Option<String> {
    if left_out.is_empty() {
        return None;
    }
    let names: Vec<_> = left_out.names().map(|name| format!("\"{name}\"")).collect();
    Some(format!(
        "only empty files are restored of {}: do not connect to them, nor to databases that were created from them after the \
         backup; after the recovery, run: {}",
        names.join(", "),
        left_out.commands().join(" ")
    ))
}

/// A sibling path of `directory`, with its name between `prefix` and `suffix`.
fn beside(directory: &Path, prefix: &str, suffix: &str) -> PathBuf {
    let mut name = OsString::from(prefix);
    name.push(directory.file_name().unwrap_or_default());
    name.push(suffix);
    parent_directory(directory).join(name)
}
