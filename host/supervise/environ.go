package supervise

import (
	"os"
	"sort"
	"strings"
)

// EnvAllow lists the environment variables of the host that a plugin gets; a star at the end matches any
// rest. Nothing else reaches a plugin: tokens, proxies with passwords, and variables that would change a
// run without being in its settings stay in the host.
//
//   - PATH, HOME, USER, LOGNAME, LANG, LANGUAGE, LC_*, TZ, TMPDIR: every program expects them.
//   - LD_LIBRARY_PATH: the folder of CUDA and driver libraries on many clusters. Without it, a plugin that works in the
//     user's shell fails here.
//   - CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER, NVIDIA_*, ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES: the GPUs
//     that the user, Slurm or a container assigned.
//   - MUJOCO_EGL_DEVICE_ID: the GPU that renders, which CUDA_VISIBLE_DEVICES does not choose.
//   - SSL_CERT_FILE, SSL_CERT_DIR: names of public certificate files, for plugins that download weights.
//
// [host] env_allow in srpo.toml adds names, for all plugins or, as PLUGIN:NAME, for one.
var EnvAllow = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
	"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_*", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
	"MUJOCO_EGL_DEVICE_ID", "SSL_CERT_FILE", "SSL_CERT_DIR",
}

// allowedFor returns the entries of a user's list that apply to the plugin, without its name: PLUGIN:NAME
// and NAME.
func allowedFor(plugin string, list []string) []string {
	var out []string
	for _, a := range list {
		if owner, name, ok := strings.Cut(a, ":"); !ok || owner == plugin {
			if !ok {
				name = a
			}
			out = append(out, name)
		}
	}
	return out
}

// environ filters the host's environment by the allow-lists and adds the plugin's variables, which take
// precedence.
func environ(host, allow []string, own map[string]string) []string {
	vars := map[string]string{}
	for _, kv := range host {
		name, value, ok := strings.Cut(kv, "=")
		if ok && (allowed(name, EnvAllow) || allowed(name, allow)) {
			vars[name] = value
		}
	}
	for name, value := range own {
		vars[name] = value
	}
	out := make([]string, 0, len(vars))
	for name, value := range vars {
		out = append(out, name+"="+value)
	}
	sort.Strings(out)
	return out
}

func allowed(name string, list []string) bool {
	for _, a := range list {
		if prefix, wild := strings.CutSuffix(a, "*"); name == a ||
			wild && prefix != "" && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// hostEnviron returns the host's environment. Tests replace it.
var hostEnviron = os.Environ
