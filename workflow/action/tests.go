package action

import "time"

// Every test has these.
var (
	testSeed   = Input{Name: "seed", Type: Int, Default: "random", Doc: "What the data of the test is made from. The same seed makes the same data; it is among the results."}
	testFailOn = Input{Name: "fail_on", Type: String, Values: []string{"none", "error"}, Default: "none", Doc: "`error` fails the step when a result is not ok. `none` leaves what to do about it to who reads the results."}
	testOutput = []Output{
		{Name: "results", Type: List, Doc: "Maps with `test`, `subject`, `measure`, `value`, `unit`, `ok`, `message`, `seed`, `duration_seconds`, and `peer` where there is one."},
		{Name: "errors", Type: Int, Doc: "Number of results that are not ok."},
		{Name: "seed", Type: Int, Doc: "The seed that was used."},
	}
	testFound = "With `fail_on: error`: the test found an error; the first is named."
)

func tests() []Action {
	return []Action{
		{
			Name: "test.cpu",
			Doc:  "Has every CPU compute at once, with SHA-256, AES, floating-point and integer matrices, and compares every answer with what it must be. Measures each CPU's speed, throttling, temperature, machine checks.",
			Inputs: []Input{
				{Name: "duration", Type: String, Default: "1m", Doc: "How long, such as `90s` or `2h`."},
				{Name: "seed", Type: Int, Default: "1", Doc: "What is computed. The answers for 1 are known beforehand; for others the CPUs vote."},
				testFailOn,
			},
			Outputs:        testOutput,
			Errors:         []string{"The CPUs can't be used.", testFound},
			Idempotent:     true,
			DefaultTimeout: 24 * time.Hour,
		},
		{
			Name: "test.memory",
			Doc:  "Writes patterns to most of the free memory and reads them back: addresses, walking bits, moving inversions, random data. Measures bandwidth, and what the memory controller had to correct. The first bad address and its bits are named.",
			Inputs: []Input{
				{Name: "share", Type: Double, Default: "0.9", Doc: "Part of the free memory that is tested. 64 MiB are left in any case."},
				{Name: "passes", Type: Int, Default: "1", Doc: "Rounds of all patterns. Rounds differ in where bits walk and in the random data."},
				{Name: "duration", Type: String, Default: "1h", Doc: "How long at most."},
				testSeed, testFailOn,
			},
			Outputs:        testOutput,
			Errors:         []string{"Too little memory is free.", "The kernel ran out of memory; a smaller `share` helps.", testFound},
			Idempotent:     true,
			DefaultTimeout: 24 * time.Hour,
		},
		{
			Name: "test.disk",
			Doc:  "Reads disks: sampled regions in sequence, blocks at random, around every cache. Asks for SMART health and runs the short self-test where there is one. Writes only to a disk that holds nothing, and leaves zeros there as they were.",
			Inputs: []Input{
				{Name: "disks", Type: Strings, Default: "every fixed disk", Doc: "Disks to test."},
				{Name: "duration", Type: String, Default: "30s", Doc: "How long each disk is read."},
				{Name: "parallel", Type: Int, Default: "4", Doc: "Disks that are tested side by side."},
				{Name: "self_test", Type: Bool, Default: "true", Doc: "Run the disk's own short self-test first, for at most 10 minutes."},
				{Name: "surface", Type: Bool, Default: "false", Doc: "Read every block instead of sampled regions."},
				{Name: "write", Type: String, Values: []string{"auto", "never"}, Default: "auto", Doc: "`auto` writes to disks without a signature, partition table or user where everything that is to be written to reads as zeros."},
				testSeed, testFailOn,
			},
			Outputs:        testOutput,
			Errors:         []string{"There is no disk, or none can be opened.", testFound},
			Idempotent:     true,
			DefaultTimeout: 24 * time.Hour,
		},
		{
			Name: "test.network",
			Doc:  "Measures throughput to and from the server, and with other machines: throughput both ways, lost datagrams, latency. Reads link speed and error counters of every interface. Machines that are given the same list of peers find each other: of each pair, the one with the lower address connects, one pair at a time.",
			Inputs: []Input{
				{Name: "peers", Type: Strings, Default: "none", Doc: "Addresses of the machines to measure with, each with an optional `:port`. Own addresses are passed over. All must run this action within `window`."},
				{Name: "role", Type: String, Values: []string{"auto", "listen", "connect"}, Default: "auto", Doc: "`listen` waits for the peers (without a list, for any machine of this server), `connect` goes to them."},
				{Name: "port", Type: Int, Default: "8445", Doc: "Port to listen on and to connect to. Data goes over further ports, chosen for each measurement."},
				{Name: "window", Type: String, Default: "5m", Doc: "How long peers are waited for."},
				{Name: "duration", Type: String, Default: "10s", Doc: "How long data goes each way."},
				{Name: "streams", Type: Int, Default: "4", Doc: "Connections at once, up to 32."},
				{Name: "server", Type: Bool, Default: "true", Doc: "Measure against the server."},
				testSeed, testFailOn,
			},
			Outputs:        testOutput,
			Errors:         []string{"There is no network interface, or the port is taken.", testFound},
			Idempotent:     true,
			DefaultTimeout: 24 * time.Hour,
		},
	}
}
