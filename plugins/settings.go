package plugins

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Setting declares one value that srpo.toml or --set can give to a plugin. The type of Default is the type of the
// setting: bool, int64, float64, string or []string.
type Setting struct {
	Name    string
	Default any
	// Doc states the meaning, the unit and the source of the default.
	Doc string
	// Choices lists the allowed strings. If it is empty, any string is allowed.
	Choices []string
	// Min and Max are inclusive bounds of a number. Nil means no bound.
	Min, Max *float64
}

// Bound returns a pointer to v, for [Setting].Min and [Setting].Max.
func Bound(v float64) *float64 { return &v }

// Check returns v converted to the type of the setting, or an error of kind [Invalid] if the type is wrong or the
// value is not allowed. A whole number is accepted where the setting is a float64.
func (s Setting) Check(v any) (any, error) {
	v, err := s.convert(v)
	if err != nil {
		return nil, err
	}
	var number float64
	switch v := v.(type) {
	case string:
		if len(s.Choices) > 0 && !slices.Contains(s.Choices, v) {
			return nil, Errorf(Invalid, "setting %q cannot be %q", s.Name, v).
				WithHint("use one of %s", strings.Join(s.Choices, ", "))
		}
		return v, nil
	case int64:
		number = float64(v)
	case float64:
		number = v
	default:
		return v, nil
	}
	if s.Min != nil && number < *s.Min || s.Max != nil && number > *s.Max {
		return nil, Errorf(Invalid, "setting %q cannot be %v", s.Name, v).WithHint("allowed: %s", s.bounds())
	}
	return v, nil
}

// convert returns v with the type of the default.
func (s Setting) convert(v any) (any, error) {
	switch n := v.(type) {
	case int:
		v = int64(n)
	case float32:
		v = float64(n)
	}
	switch s.Default.(type) {
	case bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
	case string:
		if t, ok := v.(string); ok {
			return t, nil
		}
	case []string:
		if list, ok := stringList(v); ok {
			return list, nil
		}
	case int64:
		if n, ok := v.(int64); ok {
			return n, nil
		}
	case float64:
		switch n := v.(type) {
		case int64:
			return float64(n), nil
		case float64:
			if !math.IsNaN(n) && !math.IsInf(n, 0) {
				return n, nil
			}
		}
	default:
		return nil, Errorf(Internal, "setting %q has a default of type %T", s.Name, s.Default).
			WithHint("use bool, int64, float64, string or []string")
	}
	return nil, Errorf(Invalid, "setting %q wants %s, got %v (%s)", s.Name, typeName(s.Default), v, typeName(v)).
		WithHint("the default is %v; %s", s.Default, s.Doc)
}

// stringList returns v as a []string. TOML decodes a list as []any.
func stringList(v any) ([]string, bool) {
	if list, ok := v.([]string); ok {
		return list, true
	}
	elements, ok := v.([]any)
	if !ok {
		return nil, false
	}
	list := make([]string, len(elements))
	for i, e := range elements {
		if list[i], ok = e.(string); !ok {
			return nil, false
		}
	}
	return list, true
}

func (s Setting) bounds() string {
	switch {
	case s.Min != nil && s.Max != nil:
		return fmt.Sprintf("%v to %v", *s.Min, *s.Max)
	case s.Min != nil:
		return fmt.Sprintf("%v or more", *s.Min)
	}
	return fmt.Sprintf("%v or less", *s.Max)
}

func typeName(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case int64, int:
		return "a whole number"
	case float64:
		return "a number"
	case string:
		return "a string"
	case []string, []any:
		return "a list of strings"
	}
	return fmt.Sprintf("%T", v)
}

// Resolve checks the given values against the declared settings and fills in the defaults. It returns an error of
// kind [Invalid] for an unknown name, a wrong type or a value that is not allowed.
func Resolve(declared []Setting, given map[string]any) (Settings, error) {
	out := Settings{}
	known := make([]string, len(declared))
	for i, d := range declared {
		out[d.Name], known[i] = d.Default, d.Name
	}
	for name, v := range given {
		i := slices.Index(known, name)
		if i < 0 {
			return nil, Errorf(Invalid, "unknown setting %q", name).WithHint("known: %s", strings.Join(known, ", "))
		}
		checked, err := declared[i].Check(v)
		if err != nil {
			return nil, err
		}
		out[name] = checked
	}
	return out, nil
}

// Settings maps names to checked values. Every declared setting is present.
//
// A plugin reads its settings with [Settings.Decode], which reports a misspelt name. Bool, Int, Float, String and
// Strings return the zero value for a name that is absent or has another type.
type Settings map[string]any

// Names returns the names, sorted.
func (s Settings) Names() []string {
	names := make([]string, 0, len(s))
	for n := range s {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Bool returns a setting of type bool.
func (s Settings) Bool(name string) bool { v, _ := s[name].(bool); return v }

// Int returns a setting of type int64.
func (s Settings) Int(name string) int { v, _ := s[name].(int64); return int(v) }

// Float returns a setting of type float64.
func (s Settings) Float(name string) float64 { v, _ := s[name].(float64); return v }

// String returns a setting of type string.
func (s Settings) String(name string) string { v, _ := s[name].(string); return v }

// Strings returns a setting of type []string.
func (s Settings) Strings(name string) []string { v, _ := s[name].([]string); return v }

// Decode stores the settings into the fields of the struct that into points to. The tag `setting:"NAME"` gives the
// name of a field; see [DeclareSettings] for the types. Decode returns an error of kind [Internal] if a field
// names a setting that is not declared, if a declared setting has no field, or if the types differ, so that a
// misspelt name stops the plugin at its start.
func (s Settings) Decode(into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return Errorf(Internal, "settings cannot be decoded into %T", into).WithHint("pass a pointer to a struct")
	}
	v = v.Elem()
	decoded := map[string]bool{}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, ok := field.Tag.Lookup("setting")
		if !ok {
			continue
		}
		value, ok := s[name]
		if !ok {
			return Errorf(Internal, "field %s names the setting %q, which is not declared", field.Name, name).
				WithHint("declared: %s", strings.Join(s.Names(), ", "))
		}
		from := reflect.ValueOf(value)
		if !fieldHolds(field.Type, from.Kind()) {
			return Errorf(Internal, "field %s of type %s cannot hold the setting %q of type %T", field.Name,
				field.Type, name, value)
		}
		v.Field(i).Set(from.Convert(field.Type))
		decoded[name] = true
	}
	for _, name := range s.Names() {
		if !decoded[name] {
			return Errorf(Internal, "no field of %s has the setting %q", v.Type(), name).
				WithHint("add a field with the tag `setting:%q`, or do not declare the setting", name)
		}
	}
	return nil
}

// fieldHolds reports whether a field of type t can hold a setting of the given kind without loss.
func fieldHolds(t reflect.Type, setting reflect.Kind) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float64:
		return setting == t.Kind()
	case reflect.Int, reflect.Int64:
		return setting == reflect.Int64
	case reflect.Slice:
		return setting == reflect.Slice && t.Elem().Kind() == reflect.String
	}
	return false
}

// DeclareSettings returns the settings that the fields of a struct declare, for [Info].Settings. The values of the
// fields are the defaults. A field has the type bool, int, int64, float64, string or []string, and these tags:
//
//	setting:"NAME"      the name; a field without this tag is not a setting
//	doc:"TEXT"          meaning, unit and source of the default
//	min:"X", max:"X"    inclusive bounds of a number
//	choices:"A,B"       the allowed strings
//
// [Settings.Decode] fills a struct of the same type. DeclareSettings panics if a field has another type or a bound
// is not a number: both are mistakes in the source of the plugin.
func DeclareSettings(defaults any) []Setting {
	v := reflect.Indirect(reflect.ValueOf(defaults))
	var out []Setting
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, ok := field.Tag.Lookup("setting")
		if !ok {
			continue
		}
		s := Setting{Name: name, Doc: field.Tag.Get("doc"), Min: bound(field, "min"), Max: bound(field, "max")}
		if choices := field.Tag.Get("choices"); choices != "" {
			s.Choices = strings.Split(choices, ",")
		}
		switch f := v.Field(i); {
		case f.Kind() == reflect.Bool:
			s.Default = f.Bool()
		case f.Kind() == reflect.Int, f.Kind() == reflect.Int64:
			s.Default = f.Int()
		case f.Kind() == reflect.Float64:
			s.Default = f.Float()
		case f.Kind() == reflect.String:
			s.Default = f.String()
		case f.Type() == reflect.TypeFor[[]string]():
			s.Default = append([]string{}, f.Interface().([]string)...)
		default:
			panic(fmt.Sprintf("plugins.DeclareSettings: field %s has type %s", field.Name, field.Type))
		}
		out = append(out, s)
	}
	return out
}

func bound(field reflect.StructField, tag string) *float64 {
	text, ok := field.Tag.Lookup(tag)
	if !ok {
		return nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(fmt.Sprintf("plugins.DeclareSettings: field %s: %s: %v", field.Name, tag, err))
	}
	return &v
}
