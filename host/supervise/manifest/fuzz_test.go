package manifest

import (
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// FuzzManifest tests any plugin.toml: it is refused with its file and a remedy, or all its paths are inside
// the package.
func FuzzManifest(f *testing.F) {
	f.Add(
		head + "[python]\nversion = \">=3.10\"\nno_deps = true\n[python.gpu]\nrequirements = " +
			"\"requirements.txt\"\n[[system]]\nlibrary = \"libEGL.so.1\"\n[env]\nA = \"{cache}\"\n",
	)
	f.Add(head + "[command]\nexec = [\"./x\", \"-v\"]\nbuild = [\"go\", \"build\", \"-o\", \"x\", \".\"]\n")
	f.Add(head + "[command]\nexec = [\"../x\"]\n")
	f.Add("a = " + strings.Repeat("[", 5000))
	f.Add(strings.Repeat("a.", 5000) + "b = 1")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := load(text)
		if err != nil {
			if e := plugins.AsError(err); !strings.HasPrefix(e.Place, "pkg/plugin.toml") || e.Hint == "" ||
				e.Message == "" {
				t.Fatalf("place %q, hint %q: %v", e.Place, e.Hint, err)
			}
			return
		}
		require.Regexp(t, goodName, m.Name)
		require.Equal(t, plugins.Protocol, m.Protocol)
		if m.Python != nil {
			require.True(t, fs.ValidPath(m.Python.Requirements))
			require.True(t, m.Python.Entry == "" || fs.ValidPath(m.Python.Entry))
		}
		if m.Command != nil && !m.Command.IsSelf() {
			require.True(t, fs.ValidPath(path.Clean(m.Command.Exec[0])))
			m.Command.BuildArgs("out")
		}
	})
}
