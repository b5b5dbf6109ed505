//! Which messages are logged.

use crate::config::LogLevel;
use tracing_subscriber::EnvFilter;

/// At level info the AWS SDK logs the identifier of the access key that it found.
const QUIET_SDK: &str = "aws_config=warn,aws_runtime=warn,aws_smithy_runtime=warn";

/// The filter for a level. Below info it concerns pgark's own messages only: those of the libraries contain headers of
/// requests.
pub fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(directives(level))
}

fn directives(level: LogLevel) -> String {
    match level {
        LogLevel::Error | LogLevel::Warn => level.word().to_owned(),
        LogLevel::Info => format!("info,{QUIET_SDK}"),
        LogLevel::Debug | LogLevel::Trace => format!("info,pgark={},{QUIET_SDK}", level.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_never_log_more_than_information() {
        assert_eq!(directives(LogLevel::Warn), "warn");
        assert!(directives(LogLevel::Info).starts_with("info,aws_config=warn,"));
        assert!(directives(LogLevel::Trace).starts_with("info,pgark=trace,aws_config=warn,"));
        for level in LogLevel::ALL {
            assert!(EnvFilter::try_new(directives(level)).is_ok(), "{level:?}");
        }
    }
}
