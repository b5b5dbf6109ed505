//! Keys and certificates, created with openssl as an administrator would do it.

use super::account::{create_private_directory, write_file};
use super::run::Run;
use std::path::{Path, PathBuf};

/// A directory of keys (`NAME.key`) and certificates (`NAME.crt`).
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
}

/// The default key type, which is fast to generate.
const QUICK_KEY: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

impl Certificates {
    pub fn create(directory: PathBuf) -> Certificates {
        create_private_directory(&directory);
        Certificates { directory }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    pub fn openssl(&self, args: &[&str]) {
        Run::new("openssl").args(args).in_directory(&self.directory).run().expect(0);
    }

    /// A self-signed certificate with exactly these extensions.
    pub fn self_signed(&self, name: &str, subject: &str, extensions: &[&str]) {
        self.self_signed_with(&QUICK_KEY, name, subject, extensions);
    }

    pub fn self_signed_with(&self, key: &[&str], name: &str, subject: &str, extensions: &[&str]) {
        let (key_path, path) = (format!("{name}.key"), format!("{name}.crt"));
        let config = self.config(name, extensions);
        let mut args =
            vec!["req", "-x509", "-nodes", "-days", "30", "-config", &config, "-extensions", "ours"];
        args.extend(key);
        args.extend(["-keyout", &key_path, "-out", &path, "-subj", subject]);
        self.openssl(&args);
    }

    /// A certificate issued by `authority`. Without extensions it is of version 1, as in the recipe of PostgreSQL's
    /// manual.
    pub fn issue(&self, authority: &str, name: &str, subject: &str, days: &str, extensions: &[&str]) {
        let config = self.config(name, extensions);
        let [key, request, path] = ["key", "csr", "crt"].map(|kind| format!("{name}.{kind}"));
        let mut args = vec!["req", "-new", "-nodes", "-config", &config, "-keyout", &key, "-out", &request];
        args.extend(QUICK_KEY);
        args.extend(["-subj", subject]);
        self.openssl(&args);
        let [issuer_key, issuer] = ["key", "crt"].map(|kind| format!("{authority}.{kind}"));
        let mut args = vec!["x509", "-req", "-in", &request, "-out", &path, "-days", days];
        args.extend(["-CA", &issuer, "-CAkey", &issuer_key, "-CAcreateserial"]);
        if !extensions.is_empty() {
            args.extend(["-extfile", &config, "-extensions", "ours"]);
        }
        self.openssl(&args);
    }

    /// A revocation list `NAME.crl` of `authority` with these certificates.
    pub fn revoke(&self, authority: &str, name: &str, revoked: &[&str]) {
        let path = |kind: &str| self.path(&format!("{name}.{kind}")).display().to_string();
        let (index, config, list) = (path("index"), path("ca"), path("crl"));
        let text = format!(
            "[ca]\ndefault_ca = ours\n[ours]\ndatabase = {index}\ndefault_md = sha256\ndefault_crl_days = 30\n"
        );
        write_file(Path::new(&config), text);
        write_file(Path::new(&index), "");
        let [key, issuer] = ["key", "crt"].map(|kind| format!("{authority}.{kind}"));
        let base = ["ca", "-config", &config, "-keyfile", &key, "-cert", &issuer];
        for certificate in revoked {
            let certificate = format!("{certificate}.crt");
            self.openssl(&[&base[..], &["-revoke", &certificate]].concat());
        }
        self.openssl(&[&base[..], &["-gencrl", "-out", &list]].concat());
    }

    /// Several certificates in one file.
    pub fn bundle(&self, file: &str, names: &[&str]) -> PathBuf {
        let read = |name: &&str| std::fs::read(self.path(&format!("{name}.crt"))).unwrap();
        let path = self.path(file);
        write_file(&path, names.iter().flat_map(read).collect::<Vec<u8>>());
        path
    }

    fn config(&self, name: &str, extensions: &[&str]) -> String {
        let path = self.path(&format!("{name}.cnf"));
        let text = format!("[req]\ndistinguished_name = dn\n[dn]\n[ours]\n{}\n", extensions.join("\n"));
        write_file(&path, text);
        path.display().to_string()
    }
}
