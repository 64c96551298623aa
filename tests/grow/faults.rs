//! Growing on a disk that fails at every call in turn, in every way: the output is complete or absent.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use deepwide::formats::CheckpointError;
use deepwide::formats::gguf::{GgufFileType, GgufOptions, write_gguf};
use deepwide::formats::hf::{HfOptions, HfWriter};
use deepwide::formats::{Checkpoint, HfDirectory};
use deepwide::growth::{Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use deepwide::output::OutputError;
use deepwide::output::commit::{Existing, PartialDirectory};
use deepwide::output::disk::{Disk, Lock, ReadAt, Stat, WriteFile, disk};
use deepwide::output::receipt::{RECEIPT, verify};
use deepwide::weights::{TensorId, WeightSource};

use super::{names, tiny_base};
use crate::gguf_written::tiny_vocabulary;

/// How the n-th call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The device has an error.
    Eio,
    /// The device is full.
    Enospc,
    /// A partial read or write, which is no failure.
    Short,
    /// A signal, which is no failure either.
    Eintr,
    /// From here on nothing works, not even cleanup, as after `kill -9`.
    Killed,
}

/// Counts calls and fails one of them.
#[derive(Debug)]
struct Failing {
    inner: Arc<dyn Disk>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    calls: AtomicUsize,
    fails_at: usize,
    fault: Fault,
    /// Whether names can be exchanged in one step.
    exchanges: bool,
    /// Every name that a rename gave.
    renamed: Mutex<Vec<String>>,
}

impl State {
    fn new(fails_at: usize, fault: Fault, exchanges: bool) -> Arc<Self> {
        let (calls, renamed) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { calls, fails_at, fault, exchanges, renamed })
    }

    /// Fails, or returns whether only a part of the work is done.
    fn call(&self) -> io::Result<bool> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Killed if call >= self.fails_at => Err(io::Error::from_raw_os_error(5)),
            _ if call != self.fails_at => Ok(false),
            Fault::Eio => Err(io::Error::from_raw_os_error(5)),
            Fault::Enospc => Err(io::Error::from_raw_os_error(28)),
            Fault::Eintr => Err(io::ErrorKind::Interrupted.into()),
            Fault::Short | Fault::Killed => Ok(true),
        }
    }

    /// For calls that cannot be partial and that no signal interrupts.
    fn plain_call(&self) -> io::Result<()> {
        match self.call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

impl Disk for Failing {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.state.plain_call().and_then(|()| self.inner.stat(path))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.state.plain_call().and_then(|()| self.inner.list(directory))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        self.state.plain_call()?;
        Ok(Box::new(FailingFile { inner: self.inner.open(path)?, state: self.state.clone() }))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.state.plain_call()?;
        Ok(Box::new(FailingFile { inner: self.inner.create(path)?, state: self.state.clone() }))
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.state.plain_call().and_then(|()| self.inner.create_directory(path))
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.state.plain_call().and_then(|()| self.inner.sync_directory(directory))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.plain_call().and_then(|()| self.inner.rename(from, to))?;
        self.state.renamed.lock().unwrap().push(to.file_name().unwrap().to_string_lossy().into_owned());
        Ok(())
    }
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.plain_call()?;
        if self.state.exchanges { self.inner.exchange(from, to) } else { Err(io::ErrorKind::Unsupported.into()) }
    }
    fn remove_empty(&self, directory: &Path) -> io::Result<()> {
        self.state.plain_call().and_then(|()| self.inner.remove_empty(directory))
    }
    fn remove_tree(&self, directory: &Path) -> io::Result<()> {
        self.state.plain_call().and_then(|()| self.inner.remove_tree(directory))
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.state.plain_call().and_then(|()| self.inner.free_bytes(path))
    }
    fn try_lock(&self, directory: &Path) -> io::Result<Option<Lock>> {
        self.state.plain_call().and_then(|()| self.inner.try_lock(directory))
    }
}

struct FailingFile<F> {
    inner: F,
    state: Arc<State>,
}

impl ReadAt for FailingFile<Box<dyn ReadAt>> {
    fn stat(&self) -> io::Result<Stat> {
        self.state.plain_call().and_then(|()| self.inner.stat())
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let is_short = self.state.call()?;
        let length = if is_short && bytes.len() > 1 { bytes.len() / 2 } else { bytes.len() };
        self.inner.read_at(&mut bytes[..length], offset)
    }
}

impl Write for FailingFile<Box<dyn WriteFile>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_short = self.state.call()?;
        self.inner.write(if is_short && bytes.len() > 1 { &bytes[..bytes.len() / 2] } else { bytes })
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl WriteFile for FailingFile<Box<dyn WriteFile>> {
    fn sync(&mut self) -> io::Result<()> {
        self.state.plain_call().and_then(|()| self.inner.sync())
    }
}

/// The disk, on which the call of this number finds no space.
pub fn full_at(call: usize) -> Arc<dyn Disk> {
    failing(call, Fault::Enospc).0
}

/// What `grow` does, on the given disk: opens, grows deep and wide, writes all files, the receipt last.
fn grow(disk: Arc<dyn Disk>, base: &Path, out: &Path, existing: Existing) -> Result<(), CheckpointError> {
    let base = Checkpoint::open_on(disk.clone(), base)?;
    let deep = LayerPlan::depth_up_scaling(base.config().num_hidden_layers, 1).unwrap();
    let grown = Grown::new(&base, GrowthPlan::Splice(deep)).unwrap();
    let grown = Grown::new(grown, GrowthPlan::Upcycle(UpcyclePlan::new(2, 1))).unwrap();
    let writer = HfWriter::new(&grown, HfOptions { max_shard_bytes: 40_000, ..HfOptions::default() });
    let inherited = base.inherited()?;
    let mut partial = PartialDirectory::create(disk.clone(), out, existing)?;
    writer.write(&mut partial, &inherited, &mut |_| ())?;
    let parents = base.weight_records(&mut |_| ())?;
    inherited.write(&disk, &mut partial)?;
    let receipt = serde_json::json!({"parents": parents, "files": partial.files()}).to_string();
    partial.write(RECEIPT, receipt.as_bytes())?;
    Ok(partial.commit()?)
}

/// The same from a GGUF file to a GGUF file.
fn grow_gguf(disk: Arc<dyn Disk>, base: &Path, out: &Path, existing: Existing) -> Result<(), CheckpointError> {
    let base = Checkpoint::open_on(disk.clone(), base)?;
    let deep = LayerPlan::depth_up_scaling(base.config().num_hidden_layers, 1).unwrap();
    let grown = Grown::new(&base, GrowthPlan::Splice(deep)).unwrap();
    let grown = Grown::new(grown, GrowthPlan::Upcycle(UpcyclePlan::new(2, 1))).unwrap();
    let (vocabulary, options) = (base.gguf_vocabulary()?, GgufOptions { file_type: GgufFileType::Q8_0, name: None });
    let mut partial = PartialDirectory::create(disk, out, existing)?;
    let mut file = partial.begin("grown.gguf")?;
    let path = file.path().to_owned();
    write_gguf(&grown, &vocabulary, &options, &mut file, &path)?;
    partial.finish(file)?;
    let parents = base.weight_records(&mut |_| ())?;
    let receipt = serde_json::json!({"parents": parents, "files": partial.files()}).to_string();
    partial.write(RECEIPT, receipt.as_bytes())?;
    Ok(partial.commit()?)
}

type Grow = fn(Arc<dyn Disk>, &Path, &Path, Existing) -> Result<(), CheckpointError>;

/// A base with a chat template in the only folder that an output may contain.
fn base_with_template(path: &Path) -> PathBuf {
    let base = tiny_base(path);
    fs::create_dir(base.join("additional_chat_templates")).unwrap();
    fs::write(base.join("additional_chat_templates/tool_use.jinja"), "{{ tools }}").unwrap();
    base
}

/// Each format with a base.
fn forms(root: &Path) -> [(Grow, PathBuf); 2] {
    let (base, gguf) = (base_with_template(&root.join("base")), root.join("base.gguf"));
    let source = HfDirectory::open(&base).unwrap();
    let options = GgufOptions { file_type: GgufFileType::F16, name: None };
    write_gguf(&source, &tiny_vocabulary(), &options, &mut fs::File::create(&gguf).unwrap(), &gguf).unwrap();
    [(grow, base), (grow_gguf, gguf)]
}

fn failing(fails_at: usize, fault: Fault) -> (Arc<dyn Disk>, Arc<State>) {
    let state = State::new(fails_at, fault, true);
    (Arc::new(Failing { inner: disk(), state: state.clone() }), state)
}

/// As [`failing`], on a file system that cannot exchange names.
fn failing_without_exchange(fails_at: usize, fault: Fault) -> (Arc<dyn Disk>, Arc<State>) {
    let state = State::new(fails_at, fault, false);
    (Arc::new(Failing { inner: disk(), state: state.clone() }), state)
}

fn is_complete(out: &Path) -> bool {
    verify(&disk(), out, &mut |_| ()).is_ok_and(|found| found.mismatches.is_empty()) && {
        let read = Checkpoint::open_on(disk(), out).unwrap();
        TensorId::all(read.config()).into_iter().all(|id| read.read(id).is_ok())
    }
}

#[test]
fn at_every_failing_call_the_output_is_complete_or_absent() {
    let root = tempfile::tempdir().unwrap();
    for (grow, base) in forms(root.path()) {
        complete_or_absent(root.path(), grow, &base);
    }
}

/// Grows as soon as the lock is free: a child process of another test inherits it until `exec`.
fn when_free(grow: impl Fn() -> Result<(), CheckpointError>) {
    for _ in 0..1000 {
        match grow() {
            Err(CheckpointError::Output(OutputError::Busy { .. })) => {
                std::thread::sleep(std::time::Duration::from_millis(1))
            }
            result => return result.unwrap(),
        }
    }
    panic!("the output stays locked");
}

fn complete_or_absent(root: &Path, grow: Grow, base: &Path) {
    let (counting, state) = failing(usize::MAX, Fault::Eio);
    grow(counting, base, &root.join("all"), Existing::Keep).unwrap();
    fs::remove_dir_all(root.join("all")).unwrap();
    let num_calls = state.calls.load(Ordering::SeqCst);
    assert!(num_calls > 100, "{num_calls} calls prove little");
    for fault in [Fault::Eio, Fault::Enospc, Fault::Short, Fault::Eintr, Fault::Killed] {
        let (mut failures, mut successes) = (0, 0);
        for call in 0..num_calls {
            let folder = root.join("run");
            fs::create_dir(&folder).unwrap();
            let out = folder.join("out");
            let result = grow(failing(call, fault).0, base, &out, Existing::Keep);
            if result.is_ok() {
                assert!(
                    is_complete(&out),
                    "{fault:?} at call {call} of {num_calls}: success, but an incomplete output"
                );
                successes += 1;
            } else {
                // If only the sync of the new name failed, the output is there and complete.
                assert!(
                    !out.exists() || is_complete(&out),
                    "{fault:?} at call {call} of {num_calls}: an incomplete output"
                );
                failures += 1;
            }
            // The next run works, and leaves nothing beside its output.
            if !out.exists() {
                when_free(|| grow(disk(), base, &out, Existing::Keep));
                assert!(is_complete(&out));
            }
            assert_eq!(names(&folder), ["out"], "{fault:?} at call {call}");
            fs::remove_dir_all(&folder).unwrap();
        }
        match fault {
            Fault::Short | Fault::Eintr => assert_eq!(failures, 0, "{fault:?} is no failure"),
            Fault::Killed => assert_eq!(successes, 0),
            // A failed cleanup does no harm.
            Fault::Eio | Fault::Enospc => assert!(failures > num_calls * 9 / 10, "{failures} of {num_calls}"),
        }
    }
}

#[test]
fn at_every_failing_call_a_replaced_output_is_the_old_or_the_new_one() {
    let root = tempfile::tempdir().unwrap();
    let base = base_with_template(&root.path().join("base"));
    let out = root.path().join("out");
    grow(disk(), &base, &out, Existing::Keep).unwrap();
    let (counting, state) = failing(usize::MAX, Fault::Eio);
    grow(counting, &base, &out, Existing::Replace).unwrap();
    for call in 0..state.calls.load(Ordering::SeqCst) {
        let _either = grow(failing(call, Fault::Killed).0, &base, &out, Existing::Replace);
        assert!(is_complete(&out), "killed at call {call}");
    }
}

/// Replaces one output of GGUF by one of safetensors, so that they can be told apart.
struct Replacing {
    root: tempfile::TempDir,
    base: PathBuf,
    old: PathBuf,
}

impl Replacing {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let [(_, base), (grow_gguf, gguf)] = forms(root.path());
        let old = root.path().join("old");
        grow_gguf(disk(), &gguf, &old, Existing::Keep).unwrap();
        Self { root, base, old }
    }

    /// A folder with nothing but a copy of the old output, `out`.
    fn folder(&self) -> PathBuf {
        let folder = self.root.path().join("run");
        let _from_the_last_call = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("out")).unwrap();
        for name in names(&self.old) {
            fs::copy(self.old.join(&name), folder.join("out").join(&name)).unwrap();
        }
        folder
    }

    fn replace(&self, disk: Arc<dyn Disk>, folder: &Path) -> Result<(), CheckpointError> {
        grow(disk, &self.base, &folder.join("out"), Existing::Replace)
    }

    fn is_old(&self, out: &Path) -> bool {
        is_complete(out) && names(out) == names(&self.old)
    }

    fn is_new(&self, out: &Path) -> bool {
        is_complete(out) && !self.is_old(out)
    }
}

#[test]
fn an_output_moves_aside_only_where_names_cannot_be_exchanged() {
    let replacing = Replacing::new();
    for (exchanges, renames) in [(true, 0), (false, 3)] {
        let folder = replacing.folder();
        let state = State::new(usize::MAX, Fault::Eio, exchanges);
        replacing.replace(Arc::new(Failing { inner: disk(), state: state.clone() }), &folder).unwrap();
        assert!(replacing.is_new(&folder.join("out")));
        assert_eq!(names(&folder), ["out"]);
        let renamed = state.renamed.lock().unwrap();
        assert_eq!(renamed.len(), renames, "{renamed:?}");
        assert_eq!(renamed.iter().any(|name| name.starts_with("out.deepwide-replaced-")), !exchanges);
    }
}

#[test]
fn an_output_that_cannot_be_replaced_is_put_back_and_the_new_one_is_kept() {
    /// More calls than a commit makes.
    const LAST_CALLS: usize = 60;
    let replacing = Replacing::new();
    let (counting, state) = failing_without_exchange(usize::MAX, Fault::Eio);
    replacing.replace(counting, &replacing.folder()).unwrap();
    let num_calls = state.calls.load(Ordering::SeqCst);
    let faults = [Fault::Eio, Fault::Killed].into_iter();
    let (mut kept, mut moved_aside) = (0, 0);
    for (fault, call) in faults.flat_map(|fault| (num_calls - LAST_CALLS..num_calls).map(move |call| (fault, call))) {
        let (folder, at) = (replacing.folder(), format!("{fault:?} at call {call} of {num_calls}"));
        let out = folder.join("out");
        let result = replacing.replace(failing_without_exchange(call, fault).0, &folder);
        let is_new = replacing.is_new(&out);
        assert!(is_new || result.is_err(), "{at}");
        if !out.exists() {
            assert_eq!(fault, Fault::Killed, "{at}");
            moved_aside += 1;
        }
        if let Err(CheckpointError::Output(OutputError::NotRenamed { complete, .. })) = result {
            assert!(replacing.is_new(&complete), "{at}");
            kept += 1;
        }
        // The next run finds the old output under its name, or the new one, and leaves nothing beside its own.
        let refused = grow(disk(), &replacing.base, &out, Existing::Keep).unwrap_err();
        assert!(matches!(refused, CheckpointError::Output(OutputError::Exists { .. })), "{at}: {refused}");
        assert!(if is_new { replacing.is_new(&out) } else { replacing.is_old(&out) }, "{at}");
        when_free(|| replacing.replace(failing_without_exchange(usize::MAX, fault).0, &folder));
        assert_eq!((names(&folder), replacing.is_new(&out)), (vec!["out".to_owned()], true), "{at}");
    }
    assert!(kept > 0 && moved_aside > 0, "{kept} outputs were kept, {moved_aside} moved aside");
}

/// A control: the check above detects an output that is written in place.
#[test]
fn an_incomplete_output_is_detected() {
    let root = tempfile::tempdir().unwrap();
    let base = tiny_base(&root.path().join("base"));
    let complete = root.path().join("complete");
    grow(disk(), &base, &complete, Existing::Keep).unwrap();
    let torn = root.path().join("torn");
    fs::create_dir(&torn).unwrap();
    for name in names(&complete) {
        fs::copy(complete.join(&name), torn.join(&name)).unwrap();
    }
    assert!(is_complete(&torn));
    let victim = names(&torn).into_iter().find(|name| name.ends_with(".safetensors")).unwrap();
    let bytes = fs::read(torn.join(&victim)).unwrap();
    fs::write(torn.join(&victim), &bytes[..bytes.len() - 1]).unwrap();
    assert!(!is_complete(&torn));
}
