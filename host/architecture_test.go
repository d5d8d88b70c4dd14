package host_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/srpo-dev/srpo/"

// allowedImports lists the top-level folders whose packages each top-level folder may import, besides its own:
// cmd -> host -> plugins <- sdk <- {envs, policies, encoders}.
var allowedImports = map[string][]string{
	"plugins":  {},
	"host":     {"plugins"},
	"sdk":      {"plugins"},
	"envs":     {"plugins", "sdk"},
	"policies": {"plugins", "sdk"},
	"encoders": {"plugins", "sdk"},
	"examples": {"plugins", "sdk"},
	"cmd":      {"plugins", "host", "sdk", "envs", "policies", "encoders"},
}

// allowedInTests lists the additional folders that tests may import. The tests of a policy use an env.
var allowedInTests = map[string][]string{"policies": {"envs"}}

// isolated lists the top-level folders whose subfolders are plugins, which do not import each other.
var isolated = []string{"envs", "policies", "encoders", "examples"}

// importError returns the reason why a file in a folder may not import a package of this module, or "" if it may. Both
// paths are relative to the module.
func importError(folder, imported string, test bool) string {
	from, to := topFolder(folder), topFolder(imported)
	if from == to {
		if slices.Contains(isolated, from) && !strings.HasPrefix(imported+"/", plugin(folder)+"/") &&
			!strings.HasPrefix(imported, from+"/internal/") {
			return "plugins do not import each other"
		}
		return ""
	}
	allowed, known := allowedImports[from]
	if !known {
		return "allowedImports has no entry for " + from
	}
	if slices.Contains(allowed, to) || test && slices.Contains(allowedInTests[from], to) {
		return ""
	}
	return from + " may import " + strings.Join(append([]string{from}, allowed...), ", ") + " only"
}

// topFolder returns the first element of a path.
func topFolder(folder string) string { return strings.SplitN(folder, "/", 2)[0] }

// plugin returns the first two elements of a path.
func plugin(folder string) string {
	parts := strings.SplitN(folder, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func TestImportError(t *testing.T) {
	for _, c := range []struct {
		from, to string
		test, ok bool
	}{
		{"cmd/srpo", "host/report", false, true},
		{"host/train", "plugins/env", false, true},
		{"host/rollout", "host/store", false, true},
		{"host/train", "sdk", false, false},
		{"host/train", "sdk", true, false},
		{"host/rollout", "envs/tabletop", true, false},
		{"plugins/env", "sdk", false, false},
		{"sdk", "host", false, false},
		{"policies/tiny", "sdk", false, true},
		{"policies/tiny", "envs/tabletop", false, false},
		{"policies/tiny", "envs/tabletop", true, true},
		{"policies/tiny", "policies/tiny/layers", false, true},
		{"policies/tiny", "policies/tinyest", false, false},
		{"envs/tabletop", "envs/libero", false, false},
		{"encoders/vjepa2", "encoders/internal/model", false, true},
		{"encoders/internal/model", "encoders/vjepa2", false, false},
		{"elsewhere", "plugins", false, false},
	} {
		require.Equal(t, c.ok, importError(c.from, c.to, c.test) == "", "%s -> %s (test: %v)", c.from, c.to, c.test)
	}
}

func TestImportsGoOneWay(t *testing.T) {
	seen := map[string]int{}
	eachGoFile(t, parser.ImportsOnly, func(name string, f *ast.File) {
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			local, internal := strings.CutPrefix(imported, module)
			if !internal {
				continue
			}
			seen[topFolder(name)]++
			if why := importError(path.Dir(name), local, strings.HasSuffix(name, "_test.go")); why != "" {
				t.Errorf("%s imports %s: %s", name, local, why)
			}
		}
	})
	for _, r := range []string{"cmd", "host", "sdk", "plugins", "envs", "policies", "encoders", "examples"} {
		require.NotZero(t, seen[r], "no import in the folder %s was found; check the paths in this test", r)
	}
}

// hostLayers orders the packages of host from the bottom to the top. A package imports only packages of lower layers.
// Its tests may import any.
var hostLayers = [][]string{
	{"internal/bounded", "internal/fault", "internal/tomltext", "nearest", "srpo", "stats", "media"},
	{"config", "store", "attempts", "rollout", "supervise/lock"},
	{"dataset", "audit", "supervise/pyenv"},
	{"report", "supervise/manifest"},
	{"supervise/catalog"},
	{"supervise"},
	{"session", "bench"},
	{"embed"},
	{"train", "evaluate", "scoring", "record", "export"}, // one per command
}

// hostLayer returns the index of a package's layer, -1 for a package without one.
func hostLayer(folder string) int {
	return slices.IndexFunc(hostLayers,
		func(layer []string) bool { return slices.Contains(layer, strings.TrimPrefix(folder, "host/")) })
}

// TestHostImportsGoDown checks that no package of host imports one of the same or a higher layer.
func TestHostImportsGoDown(t *testing.T) {
	checked, found := 0, map[string]bool{}
	eachGoFile(t, parser.ImportsOnly, func(name string, f *ast.File) {
		folder := path.Dir(name)
		if topFolder(folder) != "host" || folder == "host" {
			require.False(t, folder == "host" && name != "host/architecture_test.go",
				"%s: host contains only subfolders", name)
			return
		}
		require.GreaterOrEqual(t, hostLayer(folder), 0, "give %s a place in hostLayers", folder)
		found[folder] = true
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			local, internal := strings.CutPrefix(imported, module)
			if !internal || topFolder(local) != "host" || local == folder { // an external test imports its package
				continue
			}
			checked++
			if hostLayer(local) >= hostLayer(folder) && !strings.HasSuffix(name, "_test.go") {
				t.Errorf("%s imports %s, which is in layer %d of hostLayers; its own layer is %d", name, local,
					hostLayer(local), hostLayer(folder))
			}
		}
	})
	require.Greater(t, checked, 100)
	for _, layer := range hostLayers {
		for _, p := range layer {
			require.True(t, found["host/"+p], "hostLayers names %s, which does not exist", p)
		}
	}
}

// TestRewardIsPure checks that host/srpo, the reward, imports no plugin, file, clock or random numbers.
func TestRewardIsPure(t *testing.T) {
	seen := 0
	eachGoFile(t, parser.ImportsOnly, func(name string, f *ast.File) {
		if path.Dir(name) != "host/srpo" || strings.HasSuffix(name, "_test.go") {
			return
		}
		seen++
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			switch first := topFolder(imported); {
			case first == "gonum.org":
			case strings.Contains(first, "."):
				t.Errorf("%s imports %s: host/srpo is pure functions on gonum", name, imported)
			case slices.Contains([]string{"os", "net", "time", "io", "log", "math/rand", "math/rand/v2", "crypto/rand",
				"sync"}, imported):
				t.Errorf("%s imports %s: the same input must give the same output", name, imported)
			}
		}
	})
	require.Greater(t, seen, 5)
}

var (
	wordPattern = regexp.MustCompile(`[A-Z]+[a-z]*|[a-z]+`)
	// vague lists words that do not describe the contents of a file, package or type.
	vague = []string{"manager", "managers", "util", "utils", "common", "helper", "helpers", "misc"}
)

// vagueWord returns the first vague word in a name, or "" if there is none.
func vagueWord(name string) string {
	for _, w := range wordPattern.FindAllString(name, -1) {
		if slices.Contains(vague, strings.ToLower(w)) {
			return w
		}
	}
	return ""
}

func TestNamesAreSpecific(t *testing.T) {
	require.Equal(t, "Manager", vagueWord("laneManager"))
	require.Equal(t, "utils", vagueWord("path_utils.py"))
	require.Empty(t, vagueWord("utility of a policy")) // a technical term
	for _, name := range tracked(t) {
		require.Empty(t, vagueWord(name), "the name of %s", name)
	}
	eachGoFile(t, parser.SkipObjectResolution, func(name string, f *ast.File) {
		require.Empty(t, vagueWord(f.Name.Name), "%s: package %s", name, f.Name.Name)
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				for _, s := range g.Specs {
					if ty, ok := s.(*ast.TypeSpec); ok {
						require.Empty(t, vagueWord(ty.Name.Name), "%s: type %s", name, ty.Name.Name)
					}
				}
			}
		}
	})
}

func TestTopLevelNames(t *testing.T) {
	allowed := []string{
		"cmd",
		"host",
		"plugins",
		"sdk",
		"encoders",
		"envs",
		"policies",
		"examples",
		"docs",
		"findings",
		"README.md",
		"LICENSE",
		"Makefile",
		"go.mod",
		"go.sum",
		"srpo.toml",
	}
	for _, name := range tracked(t) {
		if top := topFolder(name); !strings.HasPrefix(top, ".") {
			require.Contains(t, allowed, top, "a new name at the top level")
		}
	}
}

// maxFile is the maximum size of a tracked file in bytes.
const maxFile = 200_000

func TestFilesAreFreeOfLocalPathsAndRegistries(t *testing.T) {
	// Written in pieces, so that this file does not match.
	hosts := regexp.MustCompile(
		strings.Join(
			[]string{
				`pypi\.` + `org`,
				`pythonhosted\.` + `org`,
				`proxy\.golang\.` + `org`,
				`registry\.npm` + `js`,
				`crates\.` + `io`,
				`deb\.debian\.` + `org`,
				`archive\.ubuntu\.` + `com`,
				`conda\.anaconda\.` + `org`,
				`(?m)^--(extra-)?index` + `-url`,
				`(?m)^--find` + `-links`,
			},
			"|",
		),
	)
	machine := regexp.MustCompile(`(?m)(^|[\s"'=(:])/` + `(root|work|home/[a-z]\w*|Users/\w+)/`)
	require.True(t, machine.MatchString("see /"+"root/x"))
	require.False(t, machine.MatchString("docs/"+"work/x"))
	require.True(t, hosts.MatchString("--index-url"+" x"))
	for _, name := range tracked(t) {
		info, err := os.Lstat(filepath.Join("..", name))
		if err != nil || !info.Mode().IsRegular() {
			continue // removed, but not yet committed
		}
		require.LessOrEqual(t, info.Size(), int64(maxFile), "%s is large", name)
		data, err := os.ReadFile(filepath.Join("..", name))
		require.NoError(t, err)
		if bytes.IndexByte(data, 0) >= 0 {
			continue
		}
		if found := machine.Find(data); found != nil {
			t.Errorf("%s names a path of one machine: %q", name, found)
		}
		if found := hosts.Find(data); found != nil && name != "go.sum" {
			t.Errorf("%s names a package registry: %q", name, found)
		}
	}
}

// tracked returns the paths of the files that git tracks, relative to the module and slash-separated. In an unpacked
// archive it returns all files.
func tracked(t *testing.T) []string {
	t.Helper()
	var names []string
	if out, err := exec.Command("git", "-C", "..", "ls-files", "-z").Output(); err == nil && len(out) > 0 {
		names = strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	} else {
		require.NoError(t, filepath.WalkDir("..", func(p string, d os.DirEntry, err error) error {
			rel, _ := filepath.Rel("..", p)
			switch {
			case err != nil:
				return err
			case d.IsDir() && (rel == ".venv" || rel == "runs" || rel == ".git"):
				return filepath.SkipDir
			case d.Type().IsRegular() && rel != "srpo" && rel != "srpo.lock":
				names = append(names, filepath.ToSlash(rel))
			}
			return nil
		}))
	}
	require.Greater(t, len(names), 100)
	return names
}

// eachGoFile parses every Go file and calls visit. It skips folders whose name begins with a dot.
func eachGoFile(t *testing.T, mode parser.Mode, visit func(name string, f *ast.File)) {
	t.Helper()
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, ".") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", name), nil, mode)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err, name)
		visit(name, f)
	}
}

var (
	link   = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	quoted = regexp.MustCompile("`((?:cmd|host|plugins|sdk|envs|policies|encoders|examples|docs|\\.ci)/[\\w./-]*)`")
)

// TestDocumentsReferToExistingFiles checks that links and paths in backquotes exist. It skips pictures and results,
// which are made by long runs.
func TestDocumentsReferToExistingFiles(t *testing.T) {
	checked := 0
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".md") || strings.HasPrefix(name, "docs/results/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", name))
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		exists := func(target string) {
			checked++
			if strings.HasPrefix(target, "docs/img/") || strings.HasPrefix(target, "docs/results") {
				return
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s refers to %s, which does not exist", name, target)
			}
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			if target := string(m[1]); !strings.Contains(target, "://") {
				exists(path.Join(path.Dir(name), target))
			}
		}
		for _, m := range quoted.FindAllSubmatch(text, -1) {
			exists(string(m[1]))
		}
	}
	require.Greater(t, checked, 40)
}

// TestGuideShowsTheExamples checks that the guide for plugin authors shows the examples that the tests run.
func TestGuideShowsTheExamples(t *testing.T) {
	guide, err := os.ReadFile("../docs/plugin-authors.md")
	require.NoError(t, err)
	code, err := os.ReadFile("../examples/reach-python/plugin.py")
	require.NoError(t, err)
	require.Contains(t, string(guide), "```python\n"+string(code)+"```\n")
	require.LessOrEqual(t, bytes.Count(code, []byte("\n")), 25, "the example must be short")
	code, err = os.ReadFile("../examples/reach-go/main.go")
	require.NoError(t, err)
	lines := bytes.Count(code, []byte("\n"))
	require.LessOrEqual(t, lines, 50, "the Go example must be short")
	require.Contains(t, string(guide), fmt.Sprintf("`examples/reach-go/main.go` (%d lines)", lines))
}

// TestFirstPagesAreShort checks the length of the pages that a newcomer reads first, and that the diagram of the data
// flow names existing packages.
func TestFirstPagesAreShort(t *testing.T) {
	for name, maxLines := range map[string]int{"README.md": 120, "docs/architecture.md": 150} {
		text, err := os.ReadFile(filepath.Join("..", name))
		require.NoError(t, err)
		require.LessOrEqual(t, bytes.Count(text, []byte("\n")), maxLines, "%s has too many lines", name)
	}
	picture, err := os.ReadFile("../docs/img/data-flow.svg")
	require.NoError(t, err)
	packages := regexp.MustCompile(`host/\w+`).FindAllString(string(picture), -1)
	require.GreaterOrEqual(t, len(packages), 3)
	for _, p := range packages {
		require.DirExists(t, filepath.Join("..", p))
	}
}

// The page on reliability names tests; each of them exists.
func TestReliabilityNamesTests(t *testing.T) {
	page, err := os.ReadFile("../docs/reliability.md")
	require.NoError(t, err)
	defined := map[string]bool{}
	eachGoFile(t, parser.SkipObjectResolution, func(_ string, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				defined[fn.Name.Name] = true
			}
		}
	})
	names := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(page, -1)
	require.Greater(t, len(names), 30)
	for _, m := range names {
		require.True(t, defined[string(m[1])], "docs/reliability.md names %s, which does not exist", m[1])
	}
}
