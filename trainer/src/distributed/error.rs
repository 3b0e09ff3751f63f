//! Why several processes cannot work together.

/// What can be wrong with the processes of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A launcher's variables are no rank and number of processes.
    #[error(
        "{rank_name}={rank} and {ranks_name}={ranks} are no rank and number of processes\nhint: unset both to work in one \
         process"
    )]
    Variables {
        /// The variable of the rank.
        rank_name: &'static str,
        /// Its value.
        rank: String,
        /// The variable of the number of processes.
        ranks_name: &'static str,
        /// Its value.
        ranks: String,
    },
    /// The program was started several times, but cannot talk to the others.
    #[error(
        "{launcher} started {ranks} processes, but this program was built without MPI: they would do {ranks} times the \
         same work\nhint: cargo build --release --workspace --features trainer/mpi (it needs libopenmpi-dev and \
         libclang-dev), or {ranks_name}=1 before the command to work in one process"
    )]
    NoMpi {
        /// What started it.
        launcher: &'static str,
        /// How many processes there are.
        ranks: usize,
        /// The variable that says so.
        ranks_name: &'static str,
    },
    /// NCCL was asked for, and is not built in.
    #[error(
        "{launcher} started {ranks} processes to talk over NCCL, but this program was built without it\n\
         hint: cargo build --release --features cuda,cudnn,nccl, or --transport mpi"
    )]
    NoNccl {
        /// What started it.
        launcher: &'static str,
        /// How many processes there are.
        ranks: usize,
    },
    /// A machine has fewer GPUs than processes.
    #[error(
        "process {local_rank} of this machine has no GPU of its own: {gpus} can be seen\n\
         hint: start at most {gpus} processes here; CUDA_VISIBLE_DEVICES says which GPUs can be seen"
    )]
    TooFewGpus {
        /// The process, counted within its machine.
        local_rank: usize,
        /// GPUs that it sees.
        gpus: usize,
    },
    /// Nothing says where processes meet that do not use MPI.
    #[error(
        "MASTER_ADDR={address} and MASTER_PORT={port} are no place to meet\nhint: torchrun sets both; else name the \
         machine of the first process and a free port, such as MASTER_ADDR=node7 MASTER_PORT=29500, or build with MPI"
    )]
    NoPlace {
        /// The variable's value.
        address: String,
        /// The variable's value.
        port: String,
    },
    /// The processes did not meet.
    #[error(
        "the processes did not meet at {host}:{port}: {source}\nhint: MASTER_ADDR is the machine of the first process, and \
         the port behind MASTER_PORT must be free there and open to the others"
    )]
    Rendezvous {
        /// Where.
        host: String,
        /// Where.
        port: u16,
        /// Why not.
        source: std::io::Error,
    },
    /// NCCL or the CUDA driver failed.
    #[error(
        "NCCL cannot go on, at {what}: {reason}\nhint: `nvidia-smi` lists the GPUs; NCCL_DEBUG=INFO before the command tells more"
    )]
    Nccl {
        /// What was being done.
        what: &'static str,
        /// What the library says.
        reason: String,
    },
    /// The MPI library sees other processes than the launcher started.
    #[error(
        "{launcher} started {ranks} processes, but MPI sees {seen}: they would work apart, in one folder\nhint: {}",
        launcher_hint(launcher)
    )]
    NotConnected {
        /// What started it.
        launcher: &'static str,
        /// How many processes there are.
        ranks: usize,
        /// How many the library sees.
        seen: usize,
    },
    /// The MPI library cannot be used by more than one thread.
    #[error(
        "the MPI library gives thread support {found}, gradients are summed in a thread of their own and need Serialized\n\
         hint: use a library that is built with thread support, as Debian's libopenmpi-dev is"
    )]
    ThreadSupport {
        /// What it gives.
        found: String,
    },
    /// MPI was used before in this process.
    #[error("MPI can be started only once in a process")]
    StartedBefore,
    /// There are more processes than images in a batch.
    #[error(
        "{ranks} processes cannot share batches of {batch} images\nhint: start at most {batch} of them, or raise \
         optim.global_batch_size"
    )]
    TooMany {
        /// Processes.
        ranks: usize,
        /// Images of a batch.
        batch: usize,
    },
    /// This process sees other data than the first one.
    #[error(
        "process {rank} sees the dataset {mine}, the first one {first}\nhint: all processes need the same dataset under \
         the same path; `shards inspect` shows what a folder holds"
    )]
    OtherData {
        /// This process.
        rank: usize,
        /// Its dataset.
        mine: String,
        /// That of the first process.
        first: String,
    },
    /// The processes do not hold the same weights any more.
    #[error(
        "the weights of {different} of {ranks} processes are not those of the first at step {step}: they run on different \
         programs or processors, or a memory is faulty\nhint: the last checkpoint is sound, the same command goes on \
         from there; start the same program everywhere"
    )]
    Drifted {
        /// The step.
        step: u64,
        /// Processes that differ.
        different: usize,
        /// All of them.
        ranks: usize,
    },
    /// What the first process sent cannot be read.
    #[error(
        "process {rank} cannot read what the first one sent: {source}\nhint: start the same program everywhere"
    )]
    Message {
        /// This process.
        rank: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
}

fn launcher_hint(launcher: &str) -> &'static str {
    match launcher {
        "srun" => {
            "srun --mpi=pmix (`srun --mpi=list` shows what there is), or mpirun inside of the allocation"
        }
        "torchrun" => "start it with mpirun or srun instead",
        _ => "start it with the mpirun of the MPI library that the program was built with",
    }
}
