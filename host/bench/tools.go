package bench

import (
	"embed"
	"io/fs"

	"github.com/srpo-dev/srpo/host/supervise"
)

//go:embed python/plugin.toml python/requirements.txt python/*.py
var files embed.FS

// Files returns the Python package of the developers' benchmarks, with plugin.toml at its root: idle
// plugins and gymnasium's vector environment.
func Files() fs.FS {
	sub, err := fs.Sub(files, "python")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Tools are the processes that the benchmarks use. [Steps] and [Encode] use only ArenaMB and Progress.
type Tools struct {
	// Env, Policy and Encoder serve [NewEnv], [NewPolicy] and [NewEncoder].
	Env, Policy, Encoder supervise.Launch
	// Python is the installed package of [Files]. With its zero value, comparisons with Python are left out.
	Python supervise.Launch
	// Libero is the libero plugin, for [Libero].
	Libero supervise.Launch
	// ArenaMB is the shared memory of each process in MiB; 0 sends tensors in messages.
	ArenaMB int
	// Progress receives messages about the measurement in progress.
	Progress func(format string, args ...any)
}

// script returns the launch of a Python program of the package of [Files].
func (t Tools) script(name string) supervise.Launch {
	l := t.Python
	l.Argv = append([]string(nil), l.Argv...)
	l.Argv[len(l.Argv)-1] = l.Dir + "/" + name
	return l
}
