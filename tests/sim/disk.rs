//! The model: durable content, live content, and what waits in between.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use sysupgrade_rs::files::trace::Op;

use super::{Random, SECTOR};
use crate::world::snapshot::{Entry, Snapshot};

/// Number of a file, directory, link or whiteout; the name it has is another matter.
type Inode = usize;

const ROOT: Inode = 0;

#[derive(Clone)]
enum Node {
    Dir {
        mode: u32,
        names: BTreeMap<OsString, Inode>,
    },
    /// Anything that is not a directory.
    Leaf(Entry),
}

/// A file system at one moment.
#[derive(Clone)]
struct Tree(Vec<Node>);

impl Tree {
    fn names(&self, dir: Inode) -> &BTreeMap<OsString, Inode> {
        match &self.0[dir] {
            Node::Dir { names, .. } => names,
            Node::Leaf(entry) => panic!("{entry:?} is no directory"),
        }
    }

    fn names_mut(&mut self, dir: Inode) -> &mut BTreeMap<OsString, Inode> {
        match &mut self.0[dir] {
            Node::Dir { names, .. } => names,
            Node::Leaf(entry) => panic!("{entry:?} is no directory"),
        }
    }

    fn data(&self, file: Inode) -> &[u8] {
        match &self.0[file] {
            Node::Leaf(Entry::File { data, .. }) => data,
            _ => panic!("written to something that is no file"),
        }
    }

    fn data_mut(&mut self, file: Inode) -> &mut Vec<u8> {
        match &mut self.0[file] {
            Node::Leaf(Entry::File { data, .. }) => Arc::make_mut(data),
            _ => panic!("written to something that is no file"),
        }
    }

    fn write(&mut self, file: Inode, offset: usize, bytes: &[u8]) {
        let data = self.data_mut(file);
        let end = offset + bytes.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[offset..end].copy_from_slice(bytes);
    }

    fn set_mode(&mut self, node: Inode, new: u32) {
        match &mut self.0[node] {
            Node::Dir { mode, .. } | Node::Leaf(Entry::File { mode, .. }) => *mode = new,
            Node::Leaf(entry) => panic!("{entry:?} has no mode"),
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Data {
                file,
                offset,
                bytes,
            } => self.write(*file, *offset, bytes),
            Change::Mode { node, mode } => self.set_mode(*node, *mode),
            Change::Name { gone, set } => {
                if let Some((dir, name)) = gone {
                    self.names_mut(*dir).remove(name);
                }
                if let Some((dir, name, node)) = set {
                    self.names_mut(*dir).insert(name.clone(), *node);
                }
            }
        }
    }

    /// What can be reached by names.
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.add_names(ROOT, Path::new(""), &mut snapshot);
        snapshot
    }

    fn add_names(&self, dir: Inode, path: &Path, snapshot: &mut Snapshot) {
        for (name, node) in self.names(dir) {
            let path = path.join(name);
            let entry = match &self.0[*node] {
                Node::Dir { mode, .. } => {
                    self.add_names(*node, &path, snapshot);
                    Entry::Dir { mode: *mode }
                }
                Node::Leaf(entry) => entry.clone(),
            };
            snapshot.0.insert(path, entry);
        }
    }
}

/// Something that waits in the cache.
#[derive(Clone)]
enum Change {
    Data {
        file: Inode,
        offset: usize,
        bytes: Arc<Vec<u8>>,
    },
    Mode {
        node: Inode,
        mode: u32,
    },
    /// A name goes, a name comes; both are a rename.
    Name {
        gone: Option<(Inode, OsString)>,
        set: Option<(Inode, OsString, Inode)>,
    },
}

impl Change {
    /// What has to be synced for this to be sure.
    fn belongs_to(&self) -> Inode {
        match self {
            Self::Data { file, .. } => *file,
            Self::Mode { node, .. } => *node,
            Self::Name {
                set: Some((dir, ..)),
                ..
            }
            | Self::Name {
                gone: Some((dir, _)),
                ..
            } => *dir,
            Self::Name { .. } => ROOT,
        }
    }
}

/// What becomes of the changes that wait when power goes.
#[derive(Clone, Debug)]
pub enum Loss {
    /// All of them landed.
    Nothing,
    /// None landed.
    Everything,
    /// Names landed, bytes did not: a new file is empty.
    Bytes,
    /// Names and lengths landed, bytes did not: a new file is zeros.
    BytesButLengths,
    /// Bytes landed, names did not.
    Names,
    /// Sectors and names landed or not, by chance.
    Random(Random),
}

/// A file system and its cache.
#[derive(Clone)]
pub struct Disk {
    durable: Tree,
    live: Tree,
    waiting: Vec<Change>,
    /// Paths of operations begin with this.
    root: PathBuf,
}

impl Disk {
    /// A disk that is sure to hold `content`, for operations on paths below `root`.
    pub fn new(root: &Path, content: &Snapshot) -> Self {
        let empty = Tree(vec![Node::Dir {
            mode: 0o755,
            names: BTreeMap::new(),
        }]);
        let mut disk = Self {
            durable: empty.clone(),
            live: empty,
            waiting: Vec::new(),
            root: root.to_owned(),
        };
        for (path, entry) in &content.0 {
            let node = match entry {
                Entry::Dir { mode } => Node::Dir {
                    mode: *mode,
                    names: BTreeMap::new(),
                },
                leaf => Node::Leaf(leaf.clone()),
            };
            disk.add(&root.join(path), node);
        }
        disk.durable = disk.live.clone();
        disk.waiting.clear();
        disk
    }

    /// What a reader sees as long as power stays.
    pub fn live(&self) -> Snapshot {
        self.live.snapshot()
    }

    /// True if nothing waits: a cut loses nothing.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What `path` holds for a reader; empty if there is no such file.
    pub fn live_data(&self, path: &Path) -> &[u8] {
        let (dir, name) = self.place(path);
        self.live
            .names(dir)
            .get(&name)
            .map_or(&[], |node| self.live.data(*node))
    }

    /// What the next boot finds.
    pub fn crash(&self, mut loss: Loss) -> Snapshot {
        let mut disk = self.durable.clone();
        for change in &self.waiting {
            match (&mut loss, change) {
                (
                    Loss::Random(random),
                    Change::Data {
                        file,
                        offset,
                        bytes,
                    },
                ) => {
                    land_sectors(&mut disk, random, *file, *offset, bytes);
                }
                (Loss::Random(random), _) => {
                    if random.coin() {
                        disk.apply(change);
                    }
                }
                (
                    Loss::BytesButLengths,
                    Change::Data {
                        file,
                        offset,
                        bytes,
                    },
                ) => {
                    let data = disk.data_mut(*file);
                    data.resize(data.len().max(offset + bytes.len()), 0);
                }
                (Loss::Bytes, Change::Data { .. })
                | (Loss::Names, Change::Name { .. })
                | (Loss::Everything, _) => {}
                _ => disk.apply(change),
            }
        }
        disk.snapshot()
    }

    /// Does what the program did.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Elsewhere(_) => {}
            Op::Create { path, mode } => {
                let data = Arc::default();
                self.add(path, Node::Leaf(Entry::File { mode: *mode, data }));
            }
            Op::MakeDir { path, mode } => {
                let names = BTreeMap::new();
                self.add(path, Node::Dir { mode: *mode, names });
            }
            Op::Symlink { path, target } => {
                let target = target.clone();
                self.add(path, Node::Leaf(Entry::Link { target }));
            }
            Op::Whiteout { path } => {
                self.add(path, Node::Leaf(Entry::Whiteout));
            }
            Op::Write { path, offset, data } => {
                let file = self.find(path);
                let offset = usize::try_from(*offset).expect("a small disk");
                let bytes = Arc::new(data.clone());
                self.change(Change::Data {
                    file,
                    offset,
                    bytes,
                });
            }
            Op::SetMode { path, mode } => {
                let node = self.find(path);
                self.change(Change::Mode { node, mode: *mode });
            }
            Op::Rename { from, to } => {
                let node = self.find(from);
                let (to_dir, to_name) = self.place(to);
                self.change(Change::Name {
                    gone: Some(self.place(from)),
                    set: Some((to_dir, to_name, node)),
                });
            }
            Op::Remove { path } | Op::RemoveDir { path } => {
                self.find(path);
                self.change(Change::Name {
                    gone: Some(self.place(path)),
                    set: None,
                });
            }
            Op::Sync { path } => {
                let node = self.find(path);
                let (landed, waiting) = std::mem::take(&mut self.waiting)
                    .into_iter()
                    .partition(|change| change.belongs_to() == node);
                self.waiting = waiting;
                let landed: Vec<Change> = landed;
                for change in &landed {
                    self.durable.apply(change);
                }
            }
        }
    }

    fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.waiting.push(change);
    }

    /// A new thing and its name. What it is when it is new is sure, its name is not.
    fn add(&mut self, path: &Path, node: Node) {
        let (dir, name) = self.place(path);
        let inode = self.live.0.len();
        self.live.0.push(node.clone());
        self.durable.0.push(node);
        self.change(Change::Name {
            gone: None,
            set: Some((dir, name, inode)),
        });
    }

    /// Directory and name of a path below the root.
    fn place(&self, path: &Path) -> (Inode, OsString) {
        let dir = path.parent().expect("a path below the root");
        let name = path.file_name().map(OsStr::to_owned);
        (self.find(dir), name.expect("a path with a name"))
    }

    /// What has this path, for a reader.
    fn find(&self, path: &Path) -> Inode {
        let below = path
            .strip_prefix(&self.root)
            .unwrap_or_else(|_| panic!("{} is changed, outside of the machine", path.display()));
        let mut node = ROOT;
        for component in below.components() {
            let Component::Normal(name) = component else {
                panic!("{} is not a plain path", path.display());
            };
            let found = self.live.names(node).get(name);
            node = *found.unwrap_or_else(|| panic!("{} is not on the disk", path.display()));
        }
        node
    }
}

/// Lands some sectors of a write. A new length may land before the bytes: zeros stand for them.
fn land_sectors(disk: &mut Tree, random: &mut Random, file: Inode, offset: usize, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let rest_of_sector = SECTOR - (offset + at) % SECTOR;
        let end = bytes.len().min(at + rest_of_sector);
        if random.coin() {
            disk.write(file, offset + at, &bytes[at..end]);
        }
        at = end;
    }
}
