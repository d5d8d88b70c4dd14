package supervise

import (
	"os"
	"sort"
	"strings"
)

// EnvAllow lists the host's environment variables that a plugin gets; a star at the end matches any rest. Nothing else reaches a plugin: tokens, proxies
// with passwords, and variables that would change a run without being in its settings stay with the host.
//
//   - PATH, HOME, USER, LOGNAME, LANG, LANGUAGE, LC_*, TZ, TMPDIR: what any program expects.
//   - LD_LIBRARY_PATH: where CUDA and driver libraries lie on many clusters; without it a plugin that works in the user's shell fails here.
//   - CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER, NVIDIA_*, ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES: which GPUs the user, Slurm or a container gave.
//   - SSL_CERT_FILE, SSL_CERT_DIR: names of public certificate files, needed by plugins that fetch weights.
//
// [host] env_allow in srpo.toml adds names, for all plugins or, as PLUGIN:NAME, for one.
var EnvAllow = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
	"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_*", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "SSL_CERT_FILE", "SSL_CERT_DIR",
}

// allowedFor is the part of a user's list that is for the plugin: what names it, without the name, and what names none.
func allowedFor(plugin string, list []string) []string {
	var out []string
	for _, a := range list {
		if who, name, ok := strings.Cut(a, ":"); !ok || who == plugin {
			if !ok {
				name = a
			}
			out = append(out, name)
		}
	}
	return out
}

// environ filters the host's environment by the allow-list and puts the plugin's own variables over it.
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
		if prefix, wild := strings.CutSuffix(a, "*"); name == a || wild && prefix != "" && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// hostEnviron is the host's environment; a variable so that tests can give their own.
var hostEnviron = os.Environ
