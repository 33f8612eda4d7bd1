// SPDX-License-Identifier: MIT
/*
 * What a Linux guest does while it moves, and checks: memory, timers, a disk.
 * Each of the three is a process of its own, started by its name:
 *
 *   guest_work memory MIB             writes and compares so much memory
 *   guest_work timers CPUS            sleeps on each processor, compares clocks
 *   guest_work disk DEVICE BLOCKS [ROUNDS]
 *                                     writes the last BLOCKS blocks of 4 KiB
 *                                     of a disk and reads them again, reads
 *                                     all others; ends after ROUNDS, or at
 *                                     SIGTERM
 *
 * Each keeps one line of figures in /tmp/NAME, with a defect count in it that
 * has to stay 0. The first defects are printed too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define WORDS (BLOCK / sizeof(uint64_t))
#define SHOWN 5
#define LINE 160
#define SLEEP_NS 50000000L
#define REST_US 200000
#define MOST_CPUS 8

static int report_file;
static uint64_t defects;

static void die(const char *what)
{
	fprintf(stderr, "guest_work: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Replaces the line of figures; it always has the same length. */
static void report(const char *format, ...)
{
	char line[LINE + 1];
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	memset(line + length, ' ', LINE - length);
	line[LINE - 1] = '\n';
	if (pwrite(report_file, line, LINE, 0) != LINE)
		die("report");
}

static void defect(const char *format, ...)
{
	va_list arguments;

	if (defects++ >= SHOWN)
		return;
	va_start(arguments, format);
	fprintf(stderr, "guest_work: DEFECT: ");
	vfprintf(stderr, format, arguments);
	va_end(arguments);
}

/* A value that differs for each place and each round (splitmix64). */
static uint64_t value(uint64_t place, uint64_t round)
{
	uint64_t x = (place << 20) + round * 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* Leaves the processor to the others for a while: each instruction is emulated. */
static void rest(void)
{
	usleep(REST_US);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Every eighth word of every page: the program compares memory, not the speed of a processor. */
static void memory(uint64_t mib)
{
	uint64_t bytes = mib << 20;
	volatile uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (words == MAP_FAILED)
		die("mmap");
	for (uint64_t round = 1;; round++) {
		for (uint64_t i = 0; i < bytes / sizeof(*words); i += 8) {
			uint64_t expected = round == 1 ? 0 : value(i, round - 1);

			if (words[i] != expected)
				defect("word %lu of round %lu is %lx, not %lx\n", i, round, words[i], expected);
			words[i] = value(i, round);
		}
		report("rounds=%lu defects=%lu", round, defects);
		rest();
	}
}

/* What the processes of all processors share. */
struct clocks {
	_Atomic uint64_t latest;
	_Atomic uint64_t sleeps[MOST_CPUS];
	_Atomic uint64_t backwards;
	_Atomic uint64_t longest;
};

static void sleeper(struct clocks *clocks, int cpu)
{
	cpu_set_t set;
	struct timespec at;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		die("sched_setaffinity");
	clock_gettime(CLOCK_MONOTONIC, &at);
	for (;;) {
		uint64_t before = clocks->latest;
		uint64_t time = now();

		/* No processor's clock is behind what another one has read before. */
		if (time < before)
			clocks->backwards++;
		while (time > before && !__atomic_compare_exchange_n((uint64_t *)&clocks->latest, &before, time, 0,
								     __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
		uint64_t due = at.tv_sec * 1000000000ull + at.tv_nsec;
		if (time > due && time - due > clocks->longest)
			clocks->longest = time - due;
		clock_gettime(CLOCK_MONOTONIC, &at);
		at.tv_nsec += SLEEP_NS;
		if (at.tv_nsec >= 1000000000L) {
			at.tv_nsec -= 1000000000L;
			at.tv_sec++;
		}
		if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0)
			die("clock_nanosleep");
		clocks->sleeps[cpu]++;
	}
}

static void timers(int cpus)
{
	struct clocks *clocks = mmap(NULL, sizeof(*clocks), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (clocks == MAP_FAILED || cpus > MOST_CPUS)
		die("timers");
	for (int cpu = 0; cpu < cpus; cpu++)
		if (fork() == 0)
			sleeper(clocks, cpu);
	for (;;) {
		char sleeps[LINE] = "";

		for (int cpu = 0; cpu < cpus; cpu++)
			sprintf(sleeps + strlen(sleeps), "cpu%d=%lu ", cpu, clocks->sleeps[cpu]);
		report("%slate_ms=%lu defects=%lu", sleeps, clocks->longest / 1000000, clocks->backwards);
		rest();
	}
}

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static void transfer(int fd, int is_write, void *block, uint64_t index)
{
	ssize_t done = is_write ? pwrite(fd, block, BLOCK, index * BLOCK) : pread(fd, block, BLOCK, index * BLOCK);

	if (done != BLOCK)
		die(is_write ? "pwrite" : "pread");
}

static void fill(uint64_t *block, uint64_t index, uint64_t round)
{
	for (uint64_t i = 0; i < WORDS; i++)
		block[i] = value(index * WORDS + i, round);
}

static void disk(const char *device, uint64_t written, uint64_t rounds)
{
	int fd = open(device, O_RDWR | O_DIRECT);
	uint64_t size, first, sum = 0, first_sum = 0, passes = 0, round;
	uint64_t *block, *expected;

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0 || posix_memalign((void **)&block, BLOCK, BLOCK) != 0 ||
	    posix_memalign((void **)&expected, BLOCK, BLOCK) != 0)
		die(device);
	first = size / BLOCK - written;
	signal(SIGTERM, stop);
	for (round = 0; !stopped && (rounds == 0 || round < rounds); round++) {
		uint64_t index = first + round % written;

		/* What was written here before is there, and the new contents take its place. */
		if (round >= written) {
			transfer(fd, 0, block, index);
			fill(expected, index, round - written);
			if (memcmp(block, expected, BLOCK) != 0)
				defect("block %lu is not as round %lu has written it\n", index, round - written);
		}
		fill(block, index, round);
		transfer(fd, 1, block, index);
		rest();
		if (first == 0)
			continue;
		/* A checksum of all blocks that nobody writes, a block a round. */
		transfer(fd, 0, block, round % first);
		for (uint64_t i = 0; i < WORDS; i++)
			sum = sum * 31 + block[i];
		if (round % first == first - 1) {
			if (passes++ == 0)
				first_sum = sum;
			if (sum != first_sum)
				defect("checksum %lx in pass %lu, and %lx before\n", sum, passes, first_sum);
			sum = 0;
		}
		report("rounds=%lu passes=%lu sum=%lx defects=%lu", round + 1, passes, first_sum, defects);
	}
	if (fsync(fd) < 0)
		die("fsync");
	report("rounds=%lu passes=%lu sum=%lx defects=%lu ended", round, passes, first_sum, defects);
}

int main(int count, char **arguments)
{
	char path[64];
	const char *name = count > 1 ? arguments[1] : "";

	snprintf(path, sizeof(path), "/tmp/%s", name);
	report_file = open(path, O_CREAT | O_RDWR | O_TRUNC, 0644);
	if (report_file < 0)
		die(path);
	if (count == 3 && strcmp(name, "memory") == 0)
		memory(atol(arguments[2]));
	else if (count == 3 && strcmp(name, "timers") == 0)
		timers(atoi(arguments[2]));
	else if (count >= 4 && strcmp(name, "disk") == 0)
		disk(arguments[2], atol(arguments[3]), count > 4 ? atol(arguments[4]) : 0);
	else
		fprintf(stderr, "guest_work: memory MIB | timers CPUS | disk DEVICE BLOCKS [ROUNDS]\n");
	return defects == 0 ? 0 : 1;
}
