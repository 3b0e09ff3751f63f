//! The emulated device: the kernels' sources, compiled for the processor, in a process that runs launches.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use trainer::gpu::Arg;

use crate::checks::runner::{Bytes, Launch, Run};

/// Where the kernels lie.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// The `.cu` files in order, with their texts.
pub(crate) fn files() -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = fs_err::read_dir(sources())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    files.sort();
    let with_text = |path: PathBuf| {
        let text = fs_err::read_to_string(&path).unwrap();
        (path, text)
    };
    files.into_iter().map(with_text).collect()
}

/// The names of all kernels of a file: what follows `extern "C" __global__ void`, up to its arguments. In the body of a
/// macro of a size N, one for every size.
pub(crate) fn entries(text: &str) -> Vec<String> {
    let macro_uses = text
        .lines()
        .filter_map(|line| line.strip_prefix("LONG_CONV(")?.strip_suffix(')'));
    let sizes: Vec<&str> = macro_uses.collect();
    let mut names = Vec::new();
    for declaration in text.split("extern \"C\" __global__ void").skip(1) {
        // `long_conv_forward_##N##_f32` or a plain name, behind the bounds and a broken line.
        let bounds_end = bounds_end(declaration);
        let rest = declaration[bounds_end..].trim_start_matches(|c: char| c.is_whitespace() || c == '\\');
        let name = &rest[..rest.find('(').unwrap()];
        if name.contains("##N") {
            names.extend(
                sizes
                    .iter()
                    .map(|size| name.replace("##N##", size).replace("##N", size)),
            );
        } else {
            names.push(name.to_owned());
        }
    }
    names
}

/// Where `__launch_bounds__(..)` ends.
fn bounds_end(declaration: &str) -> usize {
    let mut depth = 0;
    for (i, c) in declaration.char_indices() {
        depth += match c {
            '(' => 1,
            ')' if depth == 1 => return i + 1,
            ')' => -1,
            _ => 0,
        };
    }
    0
}

/// The first C++ compiler that answers: `$CXX`, `c++`, `g++`, `clang++`.
fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    let candidates = named
        .into_iter()
        .chain(["c++", "g++", "clang++"].map(str::to_owned));
    let answers = |name: &String| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(answers)
}

/// The program, compiled once; `None` without a compiler.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<Result<PathBuf, String>>> = OnceLock::new();
    match PROGRAM.get_or_init(|| compiler().map(|compiler| build(&compiler))) {
        None => None,
        Some(Ok(program)) => Some(program),
        Some(Err(messages)) => panic!("{messages}"),
    }
}

fn build(compiler: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (mut list, mut names) = (String::new(), String::from("#define KERNELS"));
    let mut hash = DefaultHasher::new();
    compiler.hash(&mut hash);
    for (path, text) in files() {
        writeln!(list, "#include \"{}\"", path.display()).unwrap();
        for name in entries(&text) {
            write!(names, " KERNEL({name})").unwrap();
        }
    }
    let emulation = sources().join("emulation");
    for folder in [sources(), emulation.clone()] {
        let mut others: Vec<PathBuf> = fs_err::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        others.sort();
        for path in others.iter().filter(|path| path.is_file()) {
            fs_err::read(path).unwrap().hash(&mut hash);
        }
    }
    let hash = hash.finish();
    let program = folder.join(format!("cuda-emulator-{hash:016x}"));
    if program.exists() {
        return Ok(program);
    }
    let kernels = folder.join(format!("kernels-{hash:016x}.inc"));
    fs_err::write(&kernels, format!("{list}{names}\n")).unwrap();
    let aside = folder.join(format!("cuda-emulator-{hash:016x}.{}", std::process::id()));
    let output = Command::new(compiler)
        .args([
            "-std=c++17",
            "-O1",
            "-DCUDA_ON_CPU",
            "-U_FORTIFY_SOURCE",
            "-ffp-contract=off",
        ])
        .args(["-Wall", "-Werror", "-Wno-unknown-pragmas"])
        .arg(format!("-DKERNELS_OF_FILE=\"{}\"", kernels.display()))
        .arg("-I")
        .arg(sources())
        .args([emulation.join("main.cpp"), emulation.join("cuda_on_cpu.cpp")])
        .arg("-o")
        .arg(&aside)
        .output()
        .unwrap();
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{compiler} does not compile the kernels:\n{messages}"));
    }
    fs_err::rename(&aside, &program).unwrap();
    Ok(program)
}

/// What a launch gave, and what it did for it.
pub(crate) struct Observed {
    pub(crate) run: Run,
    /// Bytes that instructions loaded and stored.
    pub(crate) loaded: u64,
    pub(crate) stored: u64,
    /// Bytes that were loaded and stored at least once: what a cache without limits leaves.
    pub(crate) loaded_once: u64,
    pub(crate) stored_once: u64,
    /// Sectors of 32 bytes that the instructions of warps moved.
    pub(crate) load_sectors: u64,
    pub(crate) store_sectors: u64,
    /// The places of barriers and exchanges that were reached.
    pub(crate) sites: Vec<String>,
}

/// A running emulator.
pub(crate) struct Emulator {
    process: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Emulator {
    /// Starts one; `None`, with a word about it, where no C++ compiler is installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: the kernels' tests need a C++ compiler (c++, g++, clang++ or $CXX)");
            return None;
        };
        let mut process = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Some(Self {
            process,
            input: BufWriter::new(input),
            output: BufReader::new(output),
        })
    }

    /// Runs a launch in both orders of threads and blocks, which must give the same bits.
    ///
    /// # Panics
    /// With what the emulation finds wrong.
    pub(crate) fn run(&mut self, launch: &Launch) -> Run {
        self.observe(launch).run
    }

    /// [`Emulator::run`], with what was counted.
    pub(crate) fn observe(&mut self, launch: &Launch) -> Observed {
        let forward = self
            .send(launch, false, "")
            .unwrap_or_else(|error| panic!("{error}"));
        let reverse = self
            .send(launch, true, "")
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(
            forward.run.buffers == reverse.run.buffers,
            "{}: the order of threads shows in the result",
            launch.name
        );
        forward
    }

    /// Runs a launch with the barriers of the place `disabled` switched off.
    pub(crate) fn send(
        &mut self,
        launch: &Launch,
        reverse: bool,
        disabled: &str,
    ) -> Result<Observed, String> {
        let input = &mut self.input;
        let put_text = |input: &mut BufWriter<ChildStdin>, text: &str| {
            input.write_all(&(text.len() as u32).to_le_bytes()).unwrap();
            input.write_all(text.as_bytes()).unwrap();
        };
        put_text(input, &launch.name);
        for size in [launch.grid.0, launch.grid.1, 1, launch.block, 1, 1] {
            input.write_all(&(size as u32).to_le_bytes()).unwrap();
        }
        input.write_all(&(launch.shared as u64).to_le_bytes()).unwrap();
        input.write_all(&[u8::from(reverse)]).unwrap();
        put_text(input, disabled);
        input
            .write_all(&(launch.args.len() as u32).to_le_bytes())
            .unwrap();
        let mut sizes = Vec::new();
        let put = |input: &mut BufWriter<ChildStdin>, kind: u8, bytes: &[u8]| {
            input.write_all(&[kind]).unwrap();
            input.write_all(bytes).unwrap();
        };
        for arg in &launch.args {
            match arg {
                Arg::Buffer(Bytes { granule, bytes }) => {
                    put(input, 0, &(*granule as u32).to_le_bytes());
                    input.write_all(&(bytes.len() as u64).to_le_bytes()).unwrap();
                    input.write_all(bytes).unwrap();
                    sizes.push(bytes.len());
                }
                Arg::I32(value) => put(input, 1, &value.to_le_bytes()),
                Arg::I64(value) => put(input, 2, &value.to_le_bytes()),
                Arg::F32(value) => put(input, 3, &value.to_le_bytes()),
                Arg::F64(value) => put(input, 4, &value.to_le_bytes()),
            }
        }
        input.flush().unwrap();
        if self.bytes(1)[0] == 0 {
            return Err(self.text());
        }
        let [mut loaded, mut stored, mut loaded_once, mut stored_once] = [0; 4];
        let mut buffers = Vec::new();
        for size in sizes {
            loaded += self.number();
            stored += self.number();
            loaded_once += self.number();
            stored_once += self.number();
            buffers.push(self.bytes(size));
        }
        let (load_sectors, store_sectors) = (self.number(), self.number());
        let _barriers = self.number();
        let count = u32::from_le_bytes(self.bytes(4).try_into().unwrap());
        Ok(Observed {
            run: Run { buffers },
            loaded,
            stored,
            loaded_once,
            stored_once,
            load_sectors,
            store_sectors,
            sites: (0..count).map(|_| self.text()).collect(),
        })
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.output.read_exact(&mut bytes).expect("the emulator has died");
        bytes
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = u32::from_le_bytes(self.bytes(4).try_into().unwrap());
        String::from_utf8(self.bytes(length as usize)).unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It ends by itself when its input does; a test that panics does not wait for it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
