package manifest

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

const head = "name = \"reach\"\nkind = \"env\"\nversion = \"0.1.0\"\nprotocol = 1\n"

func load(text string) (*Manifest, error) {
	fsys := fstest.MapFS{
		FileName:           {Data: []byte(text)},
		"plugin.py":        {},
		"requirements.txt": {},
		"bin/tool":         {Mode: 0o755},
	}
	return Load(fsys, "pkg")
}

func TestPython(t *testing.T) {
	m, err := load(
		head + "doc = \"x\"\n[python]\nversion = \">=3.10\"\nno_deps = true\ndownload_mb = 771\ndisk_mb = 1876.5\n" +
			"[[system]]\nlibrary = \"libEGL.so.1\"\napt = \"libegl1\"\n[[system]]\nlibrary = " +
			"\"libGL.so.1\"\n[env]\nMUJOCO_GL = \"egl\"\n",
	)
	require.NoError(t, err)
	require.Equal(t, "plugin.py", m.Python.Entry)
	require.Equal(t, "requirements.txt", m.Python.Requirements)
	require.True(t, m.Python.NoDeps)
	require.Equal(t, 771.0, m.Python.DownloadMB)
	require.Equal(t, ">=3.10", m.Python.Requirement.String())
	require.Len(t, m.System, 2)
	require.Equal(t, "env reach 0.1.0", m.String())
}

func TestCommand(t *testing.T) {
	m, err := load(
		head + "[command]\nexec = [\"./reach-go\", \"-v\"]\nbuild = [\"go\", \"build\", \"-o\", \"reach-go\", \".\"]\n",
	)
	require.NoError(t, err)
	require.Equal(t, []string{"go", "build", "-o", "/cache/x", "."}, m.Command.BuildArgs("/cache/x"))
	m, err = load(head + "[command]\nexec = [\"./bin/tool\"]\n")
	require.NoError(t, err)
	require.Equal(t, []string{"bin/tool"}, m.Command.Exec)
}

// A program that is not Python, with a Python environment.
func TestCommandWithEnvironment(t *testing.T) {
	m, err := load(
		head + "[python]\nversion = \"3.11\"\npost_install = \"plugin.py\"\n[command]\nexec = [\"{srpo}\", " +
			"\"plugin\"]\n[env]\nMODEL = \"{made}/x\"\nLIB = \"{venv}\"\n",
	)
	require.NoError(t, err)
	require.True(t, m.Command.IsSelf())
	require.Empty(t, m.Python.Entry)
	require.Equal(t, "plugin.py", m.Python.PostInstall)
	m, err = load(head + "[python]\nversion = \"3.11\"\n[command]\nexec = [\"./bin/tool\"]\n")
	require.NoError(t, err)
	require.False(t, m.Command.IsSelf())
}

func TestBad(t *testing.T) {
	python := "[python]\nversion = \"3.11\"\n"
	for _, c := range []struct{ name, text, place, message, hint string }{
		{"syntax", "name = \n", "pkg/plugin.toml:1:", "", "correct"},
		{"type", "name = 7\n", "pkg/plugin.toml:1", "name wants a string, got a whole number", "quotes"},
		{"nested type", head + "[python]\nversion = 3.11\n", "pkg/plugin.toml:6",
			"python.version wants a string, got a number", "quotes"},
		{"unknown key", head + "verison = \"1\"\n" + python, "pkg/plugin.toml:5", "unknown key verison",
			`did you mean "version"?`},
		{"unknown key in a table", head + python + "entri = \"x\"\n", "pkg/plugin.toml:7", "unknown key python.entri",
			`did you mean "entry"?`},
		{"unknown table", head + python + "[pyhton]\nx = 1\n", "pkg/plugin.toml:7", "unknown key pyhton",
			`did you mean "python"?`},
		{"far key", head + python + "colour = \"red\"\n", "pkg/plugin.toml:7", "unknown key python.colour",
			"known: version, requirements"},
		{"name", "name = \"Reach It\"\nkind = \"env\"\nversion = \"1\"\nprotocol = 1\n" + python, "pkg/plugin.toml:1",
			`name "Reach It"`, "lower-case letters"},
		{"kind", "name = \"r\"\nkind = \"envs\"\nversion = \"1\"\nprotocol = 1\n" + python, "pkg/plugin.toml:2",
			`kind "envs"`, `did you mean "env"?`},
		{"no version", "name = \"r\"\nkind = \"env\"\nprotocol = 1\n" + python, "pkg/plugin.toml", `version ""`,
			"0.1.0"},
		{"no protocol", "name = \"r\"\nkind = \"env\"\nversion = \"1\"\n" + python, "pkg/plugin.toml", "no protocol",
			"protocol = 1"},
		{"neither", head, "pkg/plugin.toml", "neither [python] nor [command]", ""},
		{"entry and command", head + python + "entry = \"plugin.py\"\n[command]\nexec = [\"./bin/tool\"]\n",
			"pkg/plugin.toml:7", "both an entry and a [command]", "VIRTUAL_ENV"},
		{"post_install missing", head + python + "post_install = \"make.py\"\n", "pkg/plugin.toml:7",
			`"make.py" is not a file of the package`, ""},
		{"no list for GPUs", head + python + "[python.gpu]\nrequirements = \"gpu.txt\"\n", "pkg/plugin.toml:8",
			`"gpu.txt" is not a file of the package`, ""},
		{"unknown key for GPUs", head + python + "[python.gpu]\nrequirments = \"requirements.txt\"\n",
			"pkg/plugin.toml:8", "unknown key python.gpu.requirments", `did you mean "requirements"?`},
		{"needs an unknown setting", head + "settings = [\"model\"]\n" + python + "[needs]\nmodle = \"x\"\n",
			"pkg/plugin.toml:9", `"modle" is not one of the plugin's settings`, "settings"},
		{"needs without instructions", head + "settings = [\"model\"]\n" + python + "[needs]\nmodel = \"\"\n",
			"pkg/plugin.toml:9", "no instructions for model", ""},
		{"nothing made", head + python + "[env]\nMODEL = \"{made}/x\"\n", "pkg/plugin.toml:8", "without post_install",
			"post_install"},
		{"no environment", head + "[command]\nexec = [\"./bin/tool\"]\n[env]\nLIB = \"{venv}/lib\"\n",
			"pkg/plugin.toml:8", "without [python]", ""},
		{"srpo built", head + "[command]\nexec = [\"{srpo}\"]\nbuild = [\"make\"]\n", "pkg/plugin.toml:7",
			"needs no build", ""},
		{"python version", head + "[python]\nversion = \"latest\"\n", "pkg/plugin.toml:6",
			`"latest" is not a Python version`, "3.11"},
		{"no python version", head + "[python]\nentry = \"plugin.py\"\n", "pkg/plugin.toml:5", "no version", ""},
		{"entry missing", head + python + "entry = \"main.py\"\n", "pkg/plugin.toml:7",
			`"main.py" is not a file of the package`, ""},
		{"entry outside", head + python + "entry = \"../plugin.py\"\n", "pkg/plugin.toml:7", "is not in the package",
			""},
		{"absolute program", head + "[command]\nexec = [\"/bin/sh\"]\n", "pkg/plugin.toml:6", "is not in the package",
			"srpo.lock"},
		{"no program", head + "[command]\nexec = [\"./nothing\"]\n", "pkg/plugin.toml:6", "is not a file", ""},
		{"no exec", head + "[command]\nexec = []\n", "pkg/plugin.toml:6", "no exec", ""},
		{"build elsewhere", head + "[command]\nexec = [\"./a\"]\nbuild = [\"make\"]\n", "pkg/plugin.toml:7",
			"0 times", ""},
		{"library", head + python + "[[system]]\nlibrary = \"/usr/lib/x.so\"\n", "pkg/plugin.toml:7", "library", ""},
		{"env", head + python + "[env]\nSRPO_X = \"1\"\n", "pkg/plugin.toml:8", `"SRPO_X"`, "reserved for the host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(c.text)
			e := plugins.AsError(err)
			require.NotNil(t, e)
			require.Equal(t, plugins.Invalid, e.Kind, err)
			require.Contains(t, e.Place, c.place)
			require.Contains(t, e.Message, c.message)
			require.Contains(t, e.Hint, c.hint)
			require.NotEmpty(t, e.Hint)
		})
	}
	_, err := load("name = \"r\"\nkind = \"env\"\nversion = \"1\"\nprotocol = 2\n" + python)
	require.Equal(t, plugins.Mismatch, plugins.KindOf(err))
	require.ErrorContains(t, err, "pkg/plugin.toml:4: env r uses protocol version 2, this srpo uses 1")
	_, err = Load(fstest.MapFS{}, "pkg")
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}
