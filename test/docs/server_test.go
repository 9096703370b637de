package docs

import (
	"crypto/rand"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/engine"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/trust"
)

// metric is a metric's type and labels.
type metric struct {
	Type   string
	Labels string
}

var metricRow = regexp.MustCompile("^\\| `(bedplate_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|")

func TestMetrics(t *testing.T) {
	want := codeMetrics(t)
	if len(want) < 20 {
		t.Fatalf("found only %d metrics in the code", len(want))
	}
	got := map[string]metric{}
	for line := range strings.SplitSeq(pageNamed(t, "docs/metrics.md").text, "\n") {
		if m := metricRow.FindStringSubmatch(line); m != nil {
			got[m[1]] = metric{m[2], strings.ReplaceAll(strings.TrimSpace(m[3]), "`", "")}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/metrics.md differs from the code (-code +page):\n%s", diff)
	}
	name := regexp.MustCompile(`bedplate_[a-z_]+`)
	for _, p := range written(t) {
		for _, n := range name.FindAllString(p.text, -1) {
			n = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(n, "_bucket"), "_count"), "_sum")
			if _, ok := want[n]; !ok {
				t.Errorf("%s speaks of %s: there is no such metric", p.path, n)
			}
		}
	}
}

// codeMetrics finds every metric in the code, whether or not a server would
// register it: a label that was never used is in no registry.
func codeMetrics(t *testing.T) map[string]metric {
	t.Helper()
	out := map[string]metric{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "build", "bin", "proto", "test", "docs"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			name, m, ok := metricOf(called(call), call)
			if ok && name == "" {
				t.Errorf("%s: a metric whose name is not a constant", path)
			}
			if ok {
				out[name] = m
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// called returns the name of the function of package prometheus that is
// called; "" for any other.
func called(call *ast.CallExpr) string {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := fun.X.(*ast.Ident); !ok || x.Name != "prometheus" {
		return ""
	}
	return fun.Sel.Name
}

// metricOf reads a call of prometheus.New…; false for one that makes no metric.
func metricOf(function string, call *ast.CallExpr) (string, metric, bool) {
	kind := strings.TrimPrefix(function, "New")
	kind = strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(kind, "Vec"), "Func"))
	switch {
	case function == "NewDesc":
		// Gauges, all that there are by now.
		return text(call.Args[0]), metric{"gauge", labels(call.Args[2])}, true
	case !slices.Contains([]string{"counter", "gauge", "histogram", "summary"}, kind):
		return "", metric{}, false
	}
	m := metric{Type: kind}
	if strings.HasSuffix(function, "Vec") {
		m.Labels = labels(call.Args[1])
	}
	opts, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return "", m, true
	}
	for _, e := range opts.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok && fmt.Sprint(kv.Key) == "Name" {
			return text(kv.Value), m, true
		}
	}
	return "", m, true
}

func text(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value) // a literal can be unquoted
	return s
}

func labels(e ast.Expr) string {
	list, ok := e.(*ast.CompositeLit)
	if !ok {
		return ""
	}
	var out []string
	for _, l := range list.Elts {
		out = append(out, text(l))
	}
	return strings.Join(out, ", ")
}

// TestPorts wants every port in both tables.
func TestPorts(t *testing.T) {
	for _, path := range []string{"docs/install.md", "ARCHITECTURE.md"} {
		p := pageNamed(t, path)
		for _, port := range []string{
			"67/udp", "4011/udp", "69/udp",
			fmt.Sprint(engine.DefaultHTTPPort, "/tcp"), fmt.Sprint(engine.DefaultAPIPort, "/tcp"), fmt.Sprint(engine.DefaultAgentPort, "/tcp"),
		} {
			if !strings.Contains(p.text, "| "+port+" |") {
				t.Errorf("%s has no row for port %s", path, port)
			}
		}
	}
}

// TestDataDirectory wants every file that a server keeps in both tables.
func TestDataDirectory(t *testing.T) {
	dir := t.TempDir()
	st, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := trust.OpenCA(dir, rand.Reader, time.Now); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.OpenKey(dir, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.OpenSealer(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"images/", "registry/", "agentos/"}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for _, path := range []string{"docs/backup.md", "ARCHITECTURE.md"} {
		p := pageNamed(t, path)
		for _, n := range names {
			if !strings.Contains(p.text, "`"+n+"`") {
				t.Errorf("%s says nothing of %s", path, n)
			}
		}
	}
}
