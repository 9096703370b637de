// Package arch holds the table of who may import whom, and fails on any arrow
// that isn't in it. Services never import each other; they meet in engine.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/bedplate/bedplate/"

// allowed lists, for each folder, the folders of this module that it may
// import (with everything below them). A folder may always import its own
// subfolders, and a subfolder named here has its own row.
var allowed = map[string][]string{
	// Leaves: the domain, the wire definitions, the store's contract.
	"machine":       {},
	"machine/index": {"machine"},
	// What a boot medium carries, written by the server and read by the agent.
	"machine/medium": {"machine"},
	"proto":          {},
	"store":          {},
	"store/bolt":     {"store", "store/storetest"},
	"trust":          {"machine"},

	// What a storage declaration means, for the server that checks it and the agent that carries it out.
	"layout": {"proto"},

	// What a Kubernetes node is to have, and every system's way of being told.
	"cluster/node": {},

	// What a machine's network is to be, and every system's way of saying it.
	"network": {"proto", "machine"},

	// What people write for Ignition: checked where resources are, joined where metadata is.
	"ignition": {},
	// What people write for Talos Linux, likewise.
	"talos": {},

	// Typed access to the store, and what is written through it.
	"resource": {"store", "proto", "machine", "layout", "network", "ignition", "talos"},
	"event":    {"resource", "store", "proto"},

	// Boot services: machine types only.
	"dhcp":       {"machine"},
	"dhcp/pxe":   {"machine"},
	"dhcp/lease": {"machine"},
	"tftp":       {"machine"},
	"ipxe":       {"machine"},
	"metadata":   {"machine", "ignition", "talos"},
	// Boot media are records in the store, enrol with tokens, and are images.
	"media": {"machine", "machine/medium", "store", "store/bolt", "trust", "images/agentos", "images/iso"},

	// BMCs: the contract, its drivers and sessions below it. Nothing of the server.
	"bmc": {"machine", "proto"},
	// What keeps machines' BMCs in the store: on top of the contract, not part of it.
	"bmc/fleet": {"bmc", "machine", "proto", "resource", "store"},
	"bmc/job":   {"bmc", "machine", "proto", "resource", "store"},
	// Consoles and scans know nothing of the server.
	"bmc/console": {},
	"bmc/scan":    {"bmc", "machine", "proto"},

	// Records of erasures: what machines report, judged, signed and verified.
	"erasure": {"proto", "machine", "trust"},

	// Images and the agent's system. What is known of file formats is shared with the agent.
	"images":          {"machine", "proto", "images/format", "images/chunk", "images/convert"},
	"images/convert":  {"images/chunk", "images/format"},
	"images/artifact": {},
	"images/chunk":    {},
	"images/format":   {},
	"images/agentos":  {},
	"images/iso":      {"images/agentos"},
	"images/debian":   {},
	"images/registry": {},
	// Where systems are published, and whose they are: for the command line, and for the server to check again.
	"images/catalog":   {},
	"images/source":    {"images/catalog", "images/checksum", "images/signature"},
	"images/checksum":  {},
	"images/signature": {},

	// Workflows. action, expression and plan are shared with the agent and do no I/O.
	"workflow/action":     {"proto"},
	"workflow/expression": {"workflow/action", "workflow/plan", "proto"},
	"workflow/plan":       {"workflow/action", "proto"},
	"workflow":            {"workflow/action", "workflow/expression", "workflow/plan", "resource", "store", "proto", "machine", "event"},
	"workflow/rpc":        {"workflow", "proto", "machine", "resource", "store"},

	// The agent.
	"agent":      {"agent", "workflow/action", "workflow/expression", "workflow/plan", "proto", "machine", "machine/medium", "trust", "layout", "images/format", "images/chunk"},
	"agent/step": {},

	// What becomes of machines that made themselves known, and what is to be
	// thought of their hardware.
	"discovery":  {"proto", "machine", "resource", "store"},
	"inspection": {"proto"},
	// The history of hardware and tests is in the store.
	"inspection/history": {"inspection", "proto", "resource", "store"},

	// The control plane.
	"timeline":  {"machine", "proto", "store"},
	"lifecycle": {"machine", "resource", "store", "proto", "discovery", "inspection"},
	"api":       {"resource", "store", "proto", "machine", "trust", "event"},

	// Layers on a cluster. Its parts below it know nothing of the store.
	"stack":         {"proto", "resource", "store", "workflow/expression"},
	"stack/catalog": {"proto"},

	// The lab: a board is the state, redfish and ipmi are views of it.
	"lab":         {"machine", "proto"},
	"lab/board":   {},
	"lab/redfish": {"lab/board"},
	"lab/ipmi":    {"lab/board"},
	"lab/nvram":   {},

	// Roots: they may import anything.
	"engine": {"*"},
	"cmd":    {"*"},
	"test":   {"*"},
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		folder := strings.TrimPrefix(p.ImportPath, module)
		row, ok := rowOf(folder)
		if !ok {
			t.Errorf("%s has no row in the import table: add one in the commit that adds the folder, and say why", folder)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if ours && !mayImport(row, to) {
				t.Errorf("%s imports %s, which the import table doesn't allow", folder, to)
			}
		}
	}
}

func TestImports_Table(t *testing.T) {
	var folders []string
	for _, p := range packages(t) {
		folders = append(folders, strings.TrimPrefix(p.ImportPath, module))
	}
	for row := range allowed {
		if !slices.ContainsFunc(folders, func(f string) bool { return f == row || strings.HasPrefix(f, row+"/") }) {
			t.Errorf("row %q is about a folder that isn't there", row)
		}
	}
}

func TestMachineIsALeaf(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module+"machine" {
			continue
		}
		for _, imp := range p.Imports {
			if strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
				t.Errorf("machine imports %s: it may use the standard library only", imp)
			}
		}
	}
}

// rowOf returns the name of the row that a folder falls under: the longest one.
func rowOf(folder string) (string, bool) {
	for f := folder; f != ""; {
		if _, ok := allowed[f]; ok {
			return f, true
		}
		i := strings.LastIndex(f, "/")
		if i < 0 {
			break
		}
		f = f[:i]
	}
	return "", false
}

func mayImport(row, to string) bool {
	if to == row || strings.HasPrefix(to, row+"/") {
		return true
	}
	for _, a := range allowed[row] {
		if a == "*" || to == a || strings.HasPrefix(to, a+"/") && isPlain(a, to) {
			return true
		}
	}
	return false
}

// isPlain reports whether no row below a says more about to than a does.
func isPlain(a, to string) bool {
	row, ok := rowOf(to)
	return ok && row == a
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing packages: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("reading the list of packages: %v", err)
		}
		all = append(all, p)
	}
}
