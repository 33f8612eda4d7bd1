# What the guest shares with the VMM and with the checker in TypeScript. A test compares these with the TypeScript.

# ---- fixed low memory (mirrors src/guest/layout.ts) ----
        .set SHARED,            0x2000          # stop flag, console lock
        .set MAILBOX,           0x3000          # 4 pages
        .set CONTROL,           0x8000          # one page per vCPU
        .set STACKS,            0x10000         # one page per vCPU
        .set LINES,             0x18000         # one page per vCPU: u32 length, then text

        .set SHARED_STOP,       0
        .set SHARED_LOCK,       64              # a cache line of its own

# ---- I/O ports (mirrors src/guest/ports.ts) ----
        .set PORT_SERIAL,       0x3f8
        .set PORT_CLOCK_LOW,    0x500
        .set PORT_CLOCK_HIGH,   0x504
        .set PORT_PACER,        0x508
        .set PORT_DEFECT,       0x50c
        .set PORT_LINE,         0x510

# ---- boot parameters (mirrors src/guest/boot-params.ts) ----
        .set P_MAGIC,           0               # "GODWITG1"
        .set P_VERSION,         8
        .set P_VCPUS,           12
        .set P_FLAGS,           16
        .set P_RATE,            20              # pages per second and vCPU, 0 = unlimited; read again for every batch
        .set P_HEARTBEAT,       24              # microseconds; read again for every heartbeat
        .set P_RANGES,          28              # count
        .set P_SEED,            32
        .set P_RANGE,           64              # 8 x { u64 address, u64 pages }
        .set P_TABLE,           192             # 8 x u64 address
        .set FLAG_RANDOM,       1
        .set FLAG_WHOLE_PAGE,   2
        .set FLAG_LINE_PORT,    4
        .set PARAMS_VERSION,    1

# ---- control page, one per vCPU (mirrors src/guest/layout.ts) ----
        .set C_WRITES,          0               # u64 page writes so far; must equal r10
        .set C_IN_FLIGHT,       8               # u64 address of the page being written, or last written; 0 = none yet
        .set C_CLOCK,           16              # u64 last clock reading, microseconds
        .set C_STALL,           24              # u64 largest step between two clock readings since the last heartbeat
        .set C_STALL_EVER,      32              # u64 the same since the start
        .set C_BEATS,           40              # u64 heartbeats printed
        .set C_BEAT_NEXT,       48              # u64 clock at which the next heartbeat is due
        .set C_BEAT_LAST,       56              # u64 clock of the last heartbeat
        .set C_BATCH,           64              # u64 pages per batch, adapted to 1..2 ms
        .set C_BATCH_START,     72              # u64 clock
        .set C_DEADLINE,        80              # u64 clock before which the next batch must not start
        .set C_CARRY,           88              # u64 remainder of the pacing division
        .set C_MAIL_SEEN,       96              # u64 newest message number seen
        .set C_MAIL_BUSY,       104             # u64 consecutive heartbeats at which the mailbox was being written
        .set C_OWNED,           112             # u64 pages owned
        .set C_RNG,             120             # u32
        .set C_FLAGS,           124             # u32 copy of P_FLAGS
        .set C_VCPU,            128             # u64
        .set C_VCPUS,           136             # u64
        .set C_STRIDE,          144             # u64 bytes from one owned page to the next = vCPUs * 4096
        .set C_RANGE_END,       152             # u64 end of the range that the current page is in
        .set C_WRITER,          160             # u64 what the writer adds to the second half of a stamp
        .set C_PAGE,            168             # u64 page being visited (whole-page mode moves rdi)
        .set C_PARAMS,          176             # u64
        .set C_BATCH_DONE,      184             # u64 pages in the batch under way
        .set C_LOOP,            320             # u64 entry of the page loop for the mode
        .set C_NEXT_STAMPS,     328             # u64 last stamp of one generation -> first stamp of the next
        .set C_FIRST_STAMPS,    336             # u64 first stamp of generation 0 -> first stamp of generation 1
        .set C_CELLS,           344             # u64 vCPU 0: the picture's present row, 64 cells
        .set C_SEEN,            192             # 8 x u64 vCPU 0: other vCPUs' writes when last looked at
        .set C_DEFECT,          256             # u64 kind, address, offset, expected, found
        .set C_RANGE,           512             # 9 x { u64 pages, u64 address }, ended by pages = 2^63

# ---- page stamps (mirrors src/guest/page-stamp.ts) ----
        .set STAMPS,            6
        .set STAMP_SPACING,     816             # stamps at 0, 816, ..., 4080: 16 bytes each, the last ends the page
        .set GAP_QWORDS,        100             # between two stamps
        .set MIX_PAGE,          0x9e3779b1 - 0x100000000
        .set MIX_GENERATION,    0x85ebca6b - 0x100000000
        .set MIX_WRITER,        0xc2b2ae35 - 0x100000000
        .set STAMP_STEP,        0x27d4eb2f00010000      # checksum step << 32 | index step << 16
        .set NEXT_GENERATION,   0x85ebca6b00000000      # what one generation adds to the second half
        .set STEP_HIGH,         0x27d4eb2f
        .set HOST_WRITER,       0xff00
        .set MIX_HOST_WRITER,   (0xff00 * 0xc2b2ae35) & 0xffffffff

        .set MAILBOX_PAGES,     4
        .set MAILBOX_LOCK,      16              # u32 behind the first stamp: 2 * message, odd while being written
        .set MAILBOX_PATIENCE,  256             # heartbeats

# ---- the picture (mirrors src/guest/picture.ts) ----
        .set FIRST_CELLS,       0x0000000100000000

# ---- defect kinds (mirrors src/guest/ports.ts) ----
        .set K_LOST,            1
        .set K_STALE,           2
        .set K_TORN,            3
        .set K_MISPLACED,       4
        .set K_FOREIGN,         5
        .set K_TABLE,           6
        .set K_PROGRESS,        7
        .set K_MAILBOX,         8
        .set K_CLOCK,           9
        .set K_CHANGED,         10
        .set K_PARAMETERS,      11
