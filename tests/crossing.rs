//! Each case of the configuration merge on its whole way: from a running system through the archive
//! to the first boot of the new one, and as a plan before it.
//!
//! What the plan says is what the first boot reports, and what the first boot makes is what the case
//! expects. No secret of a case is told by anything on the way, the log among it.
#![allow(
    clippy::print_stdout,
    reason = "a test says how many cases crossed, and what the log held"
)]

#[path = "world/snapshot.rs"]
#[allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
mod snapshot;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use snapshot::{Entry, Snapshot};
use sysupgrade_rs::config::apply::{self, Inputs, Target, To};
use sysupgrade_rs::config::archive::{self, Source};
use sysupgrade_rs::config::bundle::Scope;
use sysupgrade_rs::config::engine::{ENGINE, Verdict};
use sysupgrade_rs::config::forecast::{self, Forecast};
use sysupgrade_rs::config::keep::KeepList;
use sysupgrade_rs::config::merge::resolve::Resolutions;
use sysupgrade_rs::config::report::{NoticeKind, Report, Winner};
use sysupgrade_rs::config::uci::Package;
use sysupgrade_rs::config::{ConfigError, EntryPath};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::files;
use tempfile::TempDir;

/// Cases that cannot cross as they are, and why.
const AT_THE_DESK_ONLY: [(&str, &str); 2] = [
    (
        "swconfig-to-dsa-simple",
        "the transform is not built: an image with that step is refused",
    ),
    (
        "steps-backward-with-attic",
        "what steps set aside has another form in the state than in a case",
    ),
];

/// Cases with notices that only whole trees allow, and why.
const TOLD_AT_THE_DESK_ONLY: [(&str, &str); 1] = [(
    "scope-etc-outside",
    "outside of /etc and the home of root, changes are not looked for on a router",
)];

/// What does not travel because nobody changed it, or because it is the image's own, is not told.
const UNTOLD: [&str; 7] = [
    "dropped",
    "new",
    "out-of-scope",
    "removed",
    "replaced",
    "same",
    "updated",
];

/// Everything that was logged in this process, by any test.
static LOG: Mutex<String> = Mutex::new(String::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let line = format!("{}\n", record.args());
        LOG.lock().expect("the log").push_str(&line);
    }

    fn flush(&self) {}
}

fn listen() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        log::set_logger(&Log).expect("the first logger");
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// In memory where that is possible: a first boot syncs a great deal.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.expect("a directory")
}

/// A case, laid out as a running system, its defaults, and the root of the next one.
struct Crossing {
    dir: TempDir,
    /// The description, and its text: values do not know the order of their keys.
    case: Value,
    text: String,
    expected: Snapshot,
}

/// Where a case's own words go; no result is expected there.
const KEEP: &str = "lib/upgrade/keep.d/case";
const POLICY: &str = "lib/upgrade/policy.d/zz-case.conf";
const STEPS: &str = "lib/upgrade/migrations.json";

impl Crossing {
    fn new(dir: &Path) -> Self {
        listen();
        let text = fs::read_to_string(dir.join("case.json")).expect("a case");
        let case: Value = serde_json::from_str(&text).expect("json");
        let expected = tree(dir, &case, "expected");
        let crossing = Self {
            dir: scratch(),
            case,
            text,
            expected,
        };
        for (of, name) in [
            ("root", "user"),
            ("rom", "old-default"),
            ("new", "new-default"),
        ] {
            let place = crossing.place(of);
            tree(dir, &crossing.case, name)
                .write(&place)
                .expect("a tree");
            fs::create_dir_all(place.join("etc")).expect("every system has one");
            crossing.give_away(&place, name);
        }
        crossing.say_what_the_case_says();
        crossing
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, root: &str, path: &str, text: &str) {
        let place = self.place(root).join(path);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        fs::write(place, text).expect("a file");
    }

    fn word<'a>(&'a self, path: &str, otherwise: &'a str) -> &'a str {
        self.case
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or(otherwise)
    }

    fn lines(&self, key: &str) -> String {
        let lines = self.case[key].as_array().into_iter().flatten();
        lines
            .map(|line| format!("{}\n", line.as_str().expect("a line")))
            .collect()
    }

    /// Owners, which only root can give.
    fn give_away(&self, root: &Path, name: &str) {
        if fs::metadata(root).expect("a root").uid() != 0 {
            return;
        }
        let said = self.case["meta"][name].as_object().into_iter().flatten();
        for (path, meta) in said {
            let id = |key| {
                meta[key]
                    .as_u64()
                    .map(|id| u32::try_from(id).expect("an id"))
            };
            if let (Some(uid), Some(gid)) = (id("uid"), id("gid")) {
                files::set_owner(&root.join(path), uid, gid).expect("given away");
            }
        }
    }

    fn say_what_the_case_says(&self) {
        self.write("root", KEEP, &self.lines("declared"));
        for root in ["root", "new"] {
            self.write(root, POLICY, &self.lines("policy"));
        }
        let Some(steps) = self.case["migrations"].as_array() else {
            return;
        };
        if self.word("/direction", "forward") == "forward" {
            let document = json!({ "format": 1, "steps": steps });
            self.write("new", STEPS, &document.to_string());
        } else {
            let applied = steps
                .iter()
                .map(|step| json!({ "step": self.as_stored(step) }));
            let applied: Vec<Value> = applied.collect();
            let document = json!({ "format": 1, "applied": applied });
            self.write("root", "etc/sysupgrade/state.json", &document.to_string());
        }
    }

    /// A step as a state has it: maps are lists of pairs there, since their order counts.
    fn as_stored(&self, step: &Value) -> Value {
        let mut step = step.clone();
        for op in step["steps"].as_array_mut().into_iter().flatten() {
            if let Some(map) = op["map"].as_object() {
                let mut pairs: Vec<_> = map.iter().collect();
                pairs.sort_by_key(|(key, _)| self.text.find(&format!("\"{key}\"")));
                op["map"] = json!(pairs);
            }
        }
        step
    }

    fn with_source<T>(&self, use_it: impl FnOnce(&Source) -> T) -> T {
        let (root, rom) = (self.place("root"), self.place("rom"));
        let scope = match self.word("/scope", "etc") {
            "etc" => Scope::Etc,
            _ => Scope::Declared,
        };
        use_it(&Source {
            root: &root,
            keep: &KeepList::read(&root).expect("a keep list"),
            defaults: Some(&rom),
            scope,
            from_version: self.word("/facts/from_release", "1"),
            board: self.word("/facts/board", "test"),
        })
    }

    /// The new image's `config.tar.gz`.
    fn defaults(&self) -> Vec<u8> {
        let root = self.place("new");
        let gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        tar.follow_symlinks(false);
        for name in files::list(&root).expect("the new root") {
            tar.append_dir_all(&name, root.join(&name))
                .expect("a member");
        }
        let gzip = tar.into_inner().expect("in memory");
        gzip.finish().expect("in memory")
    }

    fn forecast(&self) -> Result<Forecast, ConfigError> {
        let image = self.defaults();
        let scratch = self.place("scratch");
        self.with_source(|source| {
            let to = To {
                version: "2",
                compat: None,
            };
            forecast::forecast(source, &image, to, ENGINE, &scratch)
        })
    }

    fn first_boot(&self) -> Result<Report, ConfigError> {
        let archive = self.place("archive.tar.gz");
        let file = File::create(&archive).expect("a file");
        self.with_source(|source| archive::write(file, source))
            .expect("an archive");
        apply::apply(&Inputs {
            archive: &apply::in_file(&archive),
            digest: Digest::of(&fs::read(&archive).expect("the archive")),
            new_root: &self.place("new"),
            to: To {
                version: "2",
                compat: None,
            },
            target: Target::Overlay(&self.place("overlay")),
        })
    }

    /// The new root with the upper layer over it, as the running system sees it.
    fn result(&self) -> Snapshot {
        let mut result = Snapshot::read(&self.place("new")).expect("the new root");
        let upper = Snapshot::read(&self.place("overlay/upper")).expect("the upper layer");
        result.lay_over(upper);
        for own in ["etc/sysupgrade", POLICY, STEPS] {
            result.remove(own);
        }
        result
    }

    /// Every way in which the result is not what the case expects.
    fn differences(&self) -> Vec<String> {
        let result = self.result();
        let mut differences = Vec::new();
        let leaves = |tree: &Snapshot| -> BTreeSet<PathBuf> {
            let leaves = tree
                .0
                .iter()
                .filter(|(_, entry)| !matches!(entry, Entry::Dir { .. }));
            leaves.map(|(path, _)| path.clone()).collect()
        };
        for path in leaves(&self.expected).union(&leaves(&result)) {
            let (wanted, found) = (self.expected.0.get(path), result.0.get(path));
            let by_meaning =
                self.case["expect"]["compare"][path.to_str().expect("a name")] == "uci";
            if wanted != found && !(by_meaning && mean_the_same(wanted, found)) {
                differences.push(format!(
                    "{}: expected {wanted:?}, found {found:?}",
                    path.display()
                ));
            }
        }
        differences
    }
}

fn mean_the_same(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    let parse = |entry: Option<&Entry>| match entry {
        Some(Entry::File { mode, data }) => Some((*mode, Package::parse(data).ok()?)),
        _ => None,
    };
    parse(one).is_some() && parse(one) == parse(other)
}

/// A tree of a case as it stands on a router.
fn tree(dir: &Path, case: &Value, name: &str) -> Snapshot {
    let stored = Snapshot::read(&dir.join(name)).expect("a tree");
    let mut tree = Snapshot::default();
    for (path, entry) in stored.0 {
        let entry = match entry {
            _ if path.ends_with(".gitkeep") => continue,
            Entry::Dir { .. } => Entry::Dir { mode: 0o755 },
            Entry::File { mode, data } => Entry::File {
                mode: if mode & 0o111 == 0 { 0o644 } else { 0o755 },
                data,
            },
            other => other,
        };
        tree.0.insert(path, entry);
    }
    for dir in case["dirs"][name].as_array().into_iter().flatten() {
        let dir = Path::new(dir.as_str().expect("a name"));
        for dir in dir.ancestors().filter(|dir| *dir != Path::new("")) {
            let dir = dir.to_owned();
            tree.0.entry(dir).or_insert(Entry::Dir { mode: 0o755 });
        }
    }
    for (path, meta) in case["meta"][name].as_object().into_iter().flatten() {
        let said = meta["mode"]
            .as_str()
            .map(|mode| u32::from_str_radix(mode, 8).expect("a mode"));
        let entry = tree.0.get_mut(Path::new(path));
        if let Some(Entry::File { mode, .. } | Entry::Dir { mode }) = entry {
            *mode = said.unwrap_or(*mode);
        }
    }
    tree
}

/// What a report says of each conflict, and of each notice that is about the merge.
fn told(report: &Report) -> (BTreeSet<String>, BTreeSet<String>) {
    let line = |path: &str, value: &Value, last: &str| {
        let locus = value["locus"].as_str().unwrap_or("-");
        format!("{path} {} {locus} {}", value["kind"], value[last])
    };
    let report = serde_json::to_value(report).expect("json");
    let mut conflicts = BTreeSet::new();
    for entry in report["entries"].as_array().expect("entries") {
        for conflict in entry["conflicts"].as_array().into_iter().flatten() {
            conflicts.insert(line(
                entry["path"].as_str().expect("a path"),
                conflict,
                "resolved",
            ));
        }
    }
    let notices = report["notices"].as_array().expect("notices");
    let notices = notices
        .iter()
        .map(|notice| line(notice["path"].as_str().expect("a path"), notice, "-"));
    (conflicts, notices.collect())
}

fn wanted(case: &Value, list: &str, last: &str) -> BTreeSet<String> {
    let list = case["expect"][list].as_array().into_iter().flatten();
    list.map(|item| {
        let path = item["path"].as_str().expect("a path");
        let locus = item["locus"].as_str().unwrap_or("-");
        format!("{path} {} {locus} {}", item["kind"], item[last])
    })
    .collect()
}

/// Every way in which a case does not cross as it should.
fn cross(dir: &Path) -> Vec<String> {
    let crossing = Crossing::new(dir);
    let mut faults = Vec::new();
    let plan = match crossing.forecast() {
        Ok(plan) => plan,
        Err(error) => return vec![format!("no plan: {error:?}")],
    };
    let booted = crossing.first_boot();
    let exit = match plan.verdict {
        Verdict::Clean => 0,
        Verdict::NeedsReview => 2,
        Verdict::Refused => 3,
    };
    if crossing.case["expect"]["exit"] != exit {
        faults.push(format!("exit {exit}, {:?}", plan.report.blocked));
    }
    let mut words = format!("{plan:?} {booted:?} {}", json!(plan.report));
    match &booted {
        Err(ConfigError::Refused { .. }) if exit == 3 => {
            if files::exists(&crossing.place("overlay/upper")) {
                faults.push("refused, but there is an upper layer".to_owned());
            }
        }
        Err(error) => faults.push(format!("no first boot: {error:?}")),
        Ok(report) => {
            let mut report = report.clone();
            report.archive = None; // which archive it was is known then only
            if report != plan.report {
                faults.push(format!("planned {:?}\n    booted {report:?}", plan.report));
            }
            words.push_str(&json!(report).to_string());
            for notice in &report.notices {
                words.push_str(&notice.to_string());
            }
            faults.extend(crossing.differences());
            let (conflicts, notices) = told(&report);
            if conflicts != wanted(&crossing.case, "conflicts", "resolved") {
                faults.push(format!("conflicts {conflicts:?}"));
            }
            let untold = TOLD_AT_THE_DESK_ONLY
                .iter()
                .any(|(name, _)| dir.ends_with(name));
            if notices != wanted(&crossing.case, "notices", "-") && !untold {
                faults.push(format!("notices {notices:?}"));
            }
            let attic: Vec<String> = report.attic.iter().map(EntryPath::to_string).collect();
            let no_attic = json!([]);
            if json!(attic) != *crossing.case["expect"].get("attic").unwrap_or(&no_attic) {
                faults.push(format!("attic {attic:?}"));
            }
            for (path, action) in crossing.case["expect"]["actions"]
                .as_object()
                .into_iter()
                .flatten()
            {
                let found = report
                    .entries
                    .iter()
                    .find(|entry| entry.path.to_string() == *path);
                let found = found.map(|entry| entry.action.name());
                let untold =
                    found.is_none() && action.as_str().is_some_and(|a| UNTOLD.contains(&a));
                if found != action.as_str() && !untold && !path.starts_with("service:") {
                    faults.push(format!("{path}: expected {action}, found {found:?}"));
                }
            }
        }
    }
    let log = LOG.lock().expect("the log").clone();
    for secret in crossing.case["expect"]["must_not_report"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let secret = secret.as_str().expect("a text");
        if words.contains(secret) || log.contains(secret) {
            faults.push(format!("`{secret}` is told"));
        }
    }
    faults
}

fn set(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

fn all_cross(name: &str) {
    let mut faults = String::new();
    let mut count = 0;
    for entry in fs::read_dir(set(name)).expect("the cases") {
        let dir = entry.expect("a case").path();
        let case = dir
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if AT_THE_DESK_ONLY.iter().any(|(name, _)| *name == case) {
            continue;
        }
        count += 1;
        for fault in cross(&dir) {
            faults.push_str(&format!("{case}: {fault}\n"));
        }
    }
    println!("{count} cases crossed");
    assert!(faults.is_empty(), "\n{faults}");
    assert!(count > 30, "{count} cases are too few");
}

#[test]
fn each_acceptance_case_is_planned_and_booted_as_it_is_merged_at_the_desk() {
    all_cross("vectors/config");
}

#[test]
fn each_further_case_is_planned_and_booted_as_it_is_merged_at_the_desk() {
    all_cross("cases");
}

#[test]
fn a_decision_counts_until_what_it_was_about_is_edited() {
    let crossing = Crossing::new(&set("vectors/config/uci-same-option-conflict"));
    let (path, place) = ("etc/config/dhcp", Some("lan.leasetime"));
    let of = |forecast: &Forecast, kind| {
        let notices = forecast.report.notices.iter();
        notices.filter(|notice| notice.kind == kind).count()
    };
    let before = crossing.forecast().expect("a plan");
    assert_eq!(before.verdict, Verdict::NeedsReview);
    let (path_of, locus, seen) = before.disputes.first().expect("a dispute");
    assert_eq!(
        (path_of.to_string().as_str(), locus.as_deref()),
        (path, place)
    );
    let mut resolutions = Resolutions::default();
    resolutions.decide(path_of, place, Winner::New, *seen);
    let document = serde_json::to_string(&resolutions).expect("json");
    crossing.write("root", "etc/sysupgrade/resolutions.json", &document);

    let decided = crossing.forecast().expect("a plan");
    assert_eq!(decided.verdict, Verdict::Clean, "nothing is left to review");
    assert_eq!(of(&decided, NoticeKind::ResolutionStale), 0);

    let file = crossing.place("root").join(path);
    let text = fs::read_to_string(&file).expect("a package");
    let leases: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("leasetime"))
        .collect();
    let edited = text.replace(leases[0], "\toption leasetime '77m'");
    assert_ne!(text, edited);
    fs::write(&file, edited).expect("edited");
    let stale = crossing.forecast().expect("a plan");
    assert_eq!(stale.verdict, Verdict::NeedsReview);
    assert_eq!(of(&stale, NoticeKind::ResolutionStale), 1);
    crossing.first_boot().expect("a first boot");
    let result = crossing.result();
    let text = String::from_utf8_lossy(result.data(path).expect("a package")).into_owned();
    assert!(text.contains("77m"), "the edit stays: {text}");
}

#[test]
fn what_is_logged_can_be_heard() {
    listen();
    log::debug!("a word for the test of the log");
    let log = LOG.lock().expect("the log");
    assert!(log.contains("a word for the test of the log"));
}
