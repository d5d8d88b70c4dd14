package sdk_test

import (
	"archive/zip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestThirdPartyModule builds a plugin in a module of its own, outside the checkout, as its author does: `go get`
// and `go build`, with no replace directive. A module proxy in a folder serves the working tree as a release of
// srpo.
func TestThirdPartyModule(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles gRPC in a new module cache")
	}
	const module, version = "github.com/srpo-dev/srpo", "v0.1.0"
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	require.NotContains(t, string(mod), "\nreplace ",
		"go install %s/cmd/srpo@latest refuses a module with a replace directive", module)

	proxy, plugin := t.TempDir(), t.TempDir()
	versions := filepath.Join(proxy, module, "@v")
	require.NoError(t, os.MkdirAll(versions, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(versions, version+".mod"), mod, 0o644))
	require.NoError(
		t,
		os.WriteFile(filepath.Join(versions, version+".info"), []byte(`{"Version": "`+version+`"}`), 0o644),
	)
	zipTree(t, filepath.Join(versions, version+".zip"), root, module+"@"+version)

	source, err := os.ReadFile(filepath.Join(root, "examples", "reach-go", "main.go"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(plugin, "main.go"), source, 0o644))

	known, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	require.NoError(t, err)
	cache, proxies, _ := strings.Cut(strings.TrimSpace(string(known)), "\n")
	env := append(
		os.Environ(),
		"GOWORK=off",
		"GOFLAGS=-modcacherw -buildvcs=false",
		"GOMODCACHE="+t.TempDir(),
		"GONOSUMDB="+module,
		"GOPROXY=file://"+proxy+",file://"+cache+"/cache/download,"+proxies,
	)
	for _, args := range [][]string{
		{"mod", "init", "example.com/reach"}, {"get", module + "/sdk@" + version}, {"mod", "tidy"},
		{"build", "-trimpath", "-o", "reach", "."},
	} {
		c := exec.Command("go", args...)
		c.Dir, c.Env = plugin, env
		out, err := c.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), out)
	}
	got, err := os.ReadFile(filepath.Join(plugin, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(got), "require "+module+" "+version+"\n")
	require.NotContains(t, string(got), "replace")
	// What the host alone needs is not among the requirements of a plugin.
	for _, hosts := range []string{"gonum.org", "spf13/cobra", "onnxruntime_go", "BurntSushi/toml"} {
		require.NotContains(t, string(got), hosts)
	}
}

// zipTree writes the files of the working tree that git does not ignore, as a module's zip.
func zipTree(t *testing.T, to, root, prefix string) {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	names, err := list.Output()
	require.NoError(t, err)
	f, err := os.Create(to)
	require.NoError(t, err)
	defer f.Close()
	w := zip.NewWriter(f)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || !info.Mode().IsRegular() {
			continue // deleted, or a link
		}
		in, err := os.Open(filepath.Join(root, name))
		require.NoError(t, err)
		out, err := w.Create(prefix + "/" + name)
		require.NoError(t, err)
		_, err = io.Copy(out, in)
		require.NoError(t, err)
		in.Close()
	}
	require.NoError(t, w.Close())
}
