{{/* The name of everything: the release's, and the chart's where that does not say it already. */}}
{{- define "fingerpost.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What Services and the Deployment choose Pods by. It never changes between versions. */}}
{{- define "fingerpost.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
{{- end -}}

{{- define "fingerpost.labels" -}}
{{ include "fingerpost.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: "{{ .Chart.Name }}-{{ .Chart.Version }}"
{{- if .Values.isClusterService }}
k8s-app: {{ default .Chart.Name .Values.k8sAppLabelOverride | quote }}
kubernetes.io/cluster-service: "true"
kubernetes.io/name: CoreDNS
{{- end }}
{{- with .Values.customLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fingerpost.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fingerpost.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "fingerpost.role" -}}
{{- default (include "fingerpost.name" .) .Values.clusterRole.nameOverride -}}
{{- end -}}

{{- define "fingerpost.service" -}}
{{- default (include "fingerpost.name" .) .Values.service.name -}}
{{- end -}}

{{- define "fingerpost.deployment" -}}
{{- default (include "fingerpost.name" .) .Values.deployment.name -}}
{{- end -}}

{{/* The Corefile, from `servers`. */}}
{{- define "fingerpost.corefile" -}}
{{- range $server := .Values.servers -}}
{{- range $at, $zone := $server.zones }}{{ if $at }} {{ end }}{{ $zone.scheme }}{{ $zone.zone }}:{{ $server.port }}{{ end }} {
{{- range $plugin := $server.plugins }}
    {{ $plugin.name }}{{ with $plugin.parameters }} {{ . }}{{ end }}
    {{- with $plugin.configBlock }} {
{{ . | trim | indent 8 }}
    }
    {{- end }}
{{- end }}
}
{{ end -}}
{{- end -}}

{{/* Whether a plugin stands in any server block: "true" or nothing. */}}
{{- define "fingerpost.has" -}}
{{- $name := .name -}}
{{- range $server := .root.Values.servers -}}
{{- range $plugin := $server.plugins -}}
{{- if eq $plugin.name $name -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The port of a plugin that speaks HTTP: what stands behind the last colon of its parameters, or the default. */}}
{{- define "fingerpost.httpPort" -}}
{{- $port := .default -}}
{{- $name := .name -}}
{{- range $server := .root.Values.servers -}}
{{- range $plugin := $server.plugins -}}
{{- if and (eq $plugin.name $name) $plugin.parameters -}}
{{- $port = $plugin.parameters | toString | splitList ":" | last -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $port -}}
{{- end -}}
