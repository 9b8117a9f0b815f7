//! Where the cache is and how large it may become, from the environment. It deliberately makes no folder.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::error::{CheckpointError, Result};

/// How much room the cache may take where nothing is set.
pub(crate) const DEFAULT_LIMIT: u64 = 20 << 30;

/// The variables that set folder and limit.
const FOLDER: &str = "FORNAX_CACHE";
const LIMIT: &str = "FORNAX_CACHE_LIMIT";

/// The folder and the limit in bytes.
pub(crate) fn from_env() -> Result<(PathBuf, u64)> {
    from_lookup(&|name| std::env::var_os(name), std::env::home_dir())
}

fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<(PathBuf, u64)> {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    // A user without a home folder still has a place for temporary files.
    let home = home.filter(|home| !home.as_os_str().is_empty()).unwrap_or_else(std::env::temp_dir);
    let path = |text: OsString| match Path::new(&text).strip_prefix("~") {
        Ok(rest) => home.join(rest),
        Err(_) => PathBuf::from(text),
    };
    let folder = set(FOLDER).map(&path).unwrap_or_else(|| {
        let local = || set("LOCALAPPDATA").filter(|_| cfg!(windows));
        let caches = set("XDG_CACHE_HOME").or_else(local).map_or_else(|| home.join(".cache"), &path);
        caches.join("fornax").join("repacked")
    });
    let limit = match set(LIMIT) {
        None => DEFAULT_LIMIT,
        Some(text) => text.to_str().and_then(parse_bytes).ok_or_else(|| CheckpointError::InvalidSetting {
            setting: LIMIT,
            expected: "a number of bytes such as 8GiB, 500MB or 0",
            found: text.to_string_lossy().into_owned(),
        })?,
    };
    Ok((folder, limit))
}

/// Reads `8GiB`, `1.5 GB`, `500m` or `1024`. A unit with `i`, or of one letter, counts in steps of 1024.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * unit as f64;
            // Beyond 2⁵³ a fraction means nothing any more, and neither does such a limit.
            (bytes.is_finite() && bytes < (1u64 << 53) as f64).then_some(bytes as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<(PathBuf, u64)> {
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        from_lookup(&lookup, Some(PathBuf::from("/home/ada")))
    }

    #[test]
    fn folder_follows_the_order_of_the_variables() {
        let folder = |variables: &[(&str, &str)]| of(variables).unwrap().0;
        assert_eq!(folder(&[]), PathBuf::from("/home/ada/.cache/fornax/repacked"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/fornax/repacked"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/x"), ("FORNAX_CACHE", "/f")]), PathBuf::from("/f"));
        assert_eq!(folder(&[("FORNAX_CACHE", "~/f")]), PathBuf::from("/home/ada/f"));
        assert_eq!(folder(&[("FORNAX_CACHE", ""), ("XDG_CACHE_HOME", "")]), folder(&[]));
    }

    #[test]
    fn limits_in_all_units() {
        for (text, bytes) in [
            ("0", 0),
            ("8GiB", 8 << 30),
            ("8 gib", 8 << 30),
            ("8G", 8 << 30),
            ("1.5GB", 1_500_000_000),
            ("1.5KiB", 1536),
            ("500mb", 500_000_000),
            ("2T", 2 << 40),
            ("12345", 12345),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(of(&[("FORNAX_CACHE_LIMIT", text)]).unwrap().1, bytes, "{text}");
        }
        assert_eq!(of(&[]).unwrap().1, DEFAULT_LIMIT);
        for text in
            ["8 bananas", "-1", "GiB", "1e400", "1.2.3", "nan", "18446744073709551616", "99999999999TiB", "8GiB!"]
        {
            let error = of(&[("FORNAX_CACHE_LIMIT", text)]).unwrap_err().to_string();
            assert!(error.contains("FORNAX_CACHE_LIMIT") && error.contains("8GiB"), "{text}: {error}");
        }
    }
}
