package model

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
*/
import "C"

import (
	"path/filepath"
	"slices"
	"strings"
	"unsafe"
)

// preloadCUDA loads CUDA's and cuDNN's libraries where they lie beside ONNX Runtime as Python packages
// (site-packages/nvidia/*/lib): the loader does not look there, but it takes a library that is loaded already for one
// that is wanted by the same name. It returns how many it loaded, and why the others would not be. Without such
// packages nothing is done, and the loader finds what the system or LD_LIBRARY_PATH has.
func preloadCUDA(library string) (loaded int, failures []string) {
	site := filepath.Dir(filepath.Dir(filepath.Dir(library))) // of site-packages/onnxruntime/capi/libonnxruntime.so
	waiting, _ := filepath.Glob(filepath.Join(site, "nvidia", "*", "lib", "*.so*"))
	waiting = slices.DeleteFunc(waiting, func(path string) bool {
		name := filepath.Base(path)
		// other builds of a library, and one that puts itself before BLAS
		return strings.Contains(name, "alt") || strings.Contains(name, "nvblas")
	})
	for progress := true; progress; { // in whatever order they need each other
		progress, failures = false, nil
		var left []string
		for _, path := range waiting {
			name := C.CString(path)
			handle := C.dlopen(name, C.RTLD_NOW|C.RTLD_GLOBAL)
			C.free(unsafe.Pointer(name))
			if handle == nil {
				left, failures = append(left, path), append(failures, C.GoString(C.dlerror()))
				continue
			}
			loaded, progress = loaded+1, true
		}
		waiting = left
	}
	return loaded, failures
}
