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

// mayImport says which rooms a room's code may import, its own beside them: cmd -> host -> plugins <- sdk <-
// {envs, policies, encoders}.
var mayImport = map[string][]string{
	"plugins":  {},
	"host":     {"plugins"},
	"sdk":      {"plugins"},
	"envs":     {"plugins", "sdk"},
	"policies": {"plugins", "sdk"},
	"encoders": {"plugins", "sdk"},
	"examples": {"plugins", "sdk"},
	"cmd":      {"plugins", "host", "sdk", "envs", "policies", "encoders"},
}

// mayTest are the rooms that only a room's tests may import: a policy is tested on an env.
var mayTest = map[string][]string{"policies": {"envs"}}

// apart are rooms whose folders know nothing of each other: each is a plugin of its own.
var apart = []string{"envs", "policies", "encoders", "examples"}

// breach says why a file in a folder may not import a package of this module; "" when it may. Both are paths
// relative to the module.
func breach(folder, imported string, test bool) string {
	from, to := room(folder), room(imported)
	if from == to {
		if slices.Contains(apart, from) && !strings.HasPrefix(imported+"/", plugin(folder)+"/") &&
			!strings.HasPrefix(imported, from+"/internal/") {
			return "plugins do not import each other"
		}
		return ""
	}
	allowed, known := mayImport[from]
	if !known {
		return "the room is not known"
	}
	if slices.Contains(allowed, to) || test && slices.Contains(mayTest[from], to) {
		return ""
	}
	return from + " may import " + strings.Join(append([]string{from}, allowed...), ", ") + " only"
}

func room(folder string) string { return strings.SplitN(folder, "/", 2)[0] }

// plugin is the first two elements of a path.
func plugin(folder string) string {
	parts := strings.SplitN(folder, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func TestBreach(t *testing.T) {
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
		require.Equal(t, c.ok, breach(c.from, c.to, c.test) == "", "%s -> %s (test: %v)", c.from, c.to, c.test)
	}
}

func TestImportsGoOneWay(t *testing.T) {
	seen := map[string]int{}
	eachGoFile(t, parser.ImportsOnly, func(name string, f *ast.File) {
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			local, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			seen[room(name)]++
			if why := breach(path.Dir(name), local, strings.HasSuffix(name, "_test.go")); why != "" {
				t.Errorf("%s imports %s: %s", name, local, why)
			}
		}
	})
	for _, r := range []string{"cmd", "host", "sdk", "plugins", "envs", "policies", "encoders", "examples"} {
		require.NotZero(t, seen[r], "no import of the room %s was seen: is the test looking in the right place?", r)
	}
}

// hostLayers orders the packages of host from the bottom to the top. A package imports packages of lower layers only;
// its tests may import any other.
var hostLayers = [][]string{
	{"internal/bounded", "internal/fault", "internal/tomltext", "nearest", "srpo", "stats", "media"},
	{"config", "store", "attempts", "rollout", "supervise/lock"},
	{"dataset", "audit", "supervise/pyenv"},
	{"report", "supervise/manifest"},
	{"supervise/catalog"},
	{"supervise"},
	{"session", "bench"},
	{"embed"},
	{"train", "evaluate", "scoring", "record", "export"}, // one package per verb; verbs do not import each other
}

// hostLayer returns the index of a package's layer, -1 for a package without one.
func hostLayer(folder string) int {
	return slices.IndexFunc(hostLayers,
		func(layer []string) bool { return slices.Contains(layer, strings.TrimPrefix(folder, "host/")) })
}

// No package of host imports upwards or sideways.
func TestHostImportsGoDown(t *testing.T) {
	checked, found := 0, map[string]bool{}
	eachGoFile(t, parser.ImportsOnly, func(name string, f *ast.File) {
		folder := path.Dir(name)
		if room(folder) != "host" || folder == "host" {
			require.False(t, folder == "host" && name != "host/architecture_test.go",
				"%s: the root of host stays empty", name)
			return
		}
		require.GreaterOrEqual(t, hostLayer(folder), 0, "give %s a place in hostLayers", folder)
		found[folder] = true
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			local, ours := strings.CutPrefix(imported, module)
			if !ours || room(local) != "host" || local == folder { // a package's external tests import it
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

// The reward is arithmetic: it knows no plugin, no file and no clock.
func TestRewardIsPure(t *testing.T) {
	seen := 0
	eachGoFile(t, parser.ImportsOnly, func(name string, f *ast.File) {
		if path.Dir(name) != "host/srpo" || strings.HasSuffix(name, "_test.go") {
			return
		}
		seen++
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			switch first := room(imported); {
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
	words = regexp.MustCompile(`[A-Z]+[a-z]*|[a-z]+`)
	// empty are names that say nothing of what is inside.
	empty = []string{"manager", "managers", "util", "utils", "common", "helper", "helpers", "misc"}
)

// saysNothing gives the word in a name that could stand on anything; "" when there is none.
func saysNothing(name string) string {
	for _, w := range words.FindAllString(name, -1) {
		if slices.Contains(empty, strings.ToLower(w)) {
			return w
		}
	}
	return ""
}

func TestNamesSayWhatIsInside(t *testing.T) {
	require.Equal(t, "Manager", saysNothing("laneManager"))
	require.Equal(t, "utils", saysNothing("path_utils.py"))
	require.Empty(t, saysNothing("utility of a policy")) // a word of the field
	for _, name := range tracked(t) {
		require.Empty(t, saysNothing(name), "the name of %s", name)
	}
	eachGoFile(t, parser.SkipObjectResolution, func(name string, f *ast.File) {
		require.Empty(t, saysNothing(f.Name.Name), "%s: package %s", name, f.Name.Name)
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				for _, s := range g.Specs {
					if ty, ok := s.(*ast.TypeSpec); ok {
						require.Empty(t, saysNothing(ty.Name.Name), "%s: type %s", name, ty.Name.Name)
					}
				}
			}
		}
	})
}

func TestTopLevelIsFixed(t *testing.T) {
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
		if top := room(name); !strings.HasPrefix(top, ".") {
			require.Contains(t, allowed, top, "a new name at the top level")
		}
	}
}

// maxFile bounds a tracked file, bytes.
const maxFile = 200_000

func TestFilesNameNoMachineAndNoRegistry(t *testing.T) {
	// Written in pieces, so that this file does not name them itself.
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
			continue // removed, and not committed yet
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

// tracked lists the files that git knows, relative to the module, slash-separated; of an unpacked archive, all files.
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

// eachGoFile parses every Go file outside of folders whose name begins with a dot.
func eachGoFile(t *testing.T, mode parser.Mode, look func(name string, f *ast.File)) {
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
		look(name, f)
	}
}

var (
	link   = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	quoted = regexp.MustCompile("`((?:cmd|host|plugins|sdk|envs|policies|encoders|examples|docs|\\.ci)/[\\w./-]*)`")
)

// What the documents point at exists: links, and paths in backquotes. Pictures and results are made by runs,
// which take their time.
func TestDocumentsPointAtWhatExists(t *testing.T) {
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
				t.Errorf("%s points at %s, which does not exist", name, target)
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

// The guide for plugin authors shows the examples that the tests run.
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

// The pages that a newcomer reads first stay short, and the picture of the data flow names packages that exist.
func TestFirstPagesAreShort(t *testing.T) {
	for name, most := range map[string]int{"README.md": 120, "docs/architecture.md": 150} {
		text, err := os.ReadFile(filepath.Join("..", name))
		require.NoError(t, err)
		require.LessOrEqual(t, bytes.Count(text, []byte("\n")), most, "%s has too many lines", name)
	}
	picture, err := os.ReadFile("../docs/img/data-flow.svg")
	require.NoError(t, err)
	packages := regexp.MustCompile(`host/\w+`).FindAllString(string(picture), -1)
	require.GreaterOrEqual(t, len(packages), 3)
	for _, p := range packages {
		require.DirExists(t, filepath.Join("..", p))
	}
}
