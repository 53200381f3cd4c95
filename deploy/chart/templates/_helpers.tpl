{{- define "culvert.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "culvert.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "culvert.relay.name" -}}{{ include "culvert.fullname" . }}-relay{{- end -}}
{{- define "culvert.agent.name" -}}{{ include "culvert.fullname" . }}-agent{{- end -}}
{{- define "culvert.relay.namespace" -}}{{ default .Release.Namespace .Values.namespaceOverride }}{{- end -}}
{{- define "culvert.agent.namespace" -}}{{ .Values.agent.namespace }}{{- end -}}

{{- define "culvert.relay.account" -}}
{{- default (ternary (include "culvert.relay.name" .) "default" .Values.relay.serviceAccount.create) .Values.relay.serviceAccount.name -}}
{{- end -}}
{{- define "culvert.agent.account" -}}
{{- default (ternary (include "culvert.agent.name" .) "default" .Values.agent.serviceAccount.create) .Values.agent.serviceAccount.name -}}
{{- end -}}

{{- /* The Secret with the relay's certificate, and the ConfigMap with its authority. */ -}}
{{- define "culvert.tlsSecret" -}}
{{- ternary .Values.tls.existingSecret (printf "%s-tls" (include "culvert.relay.name" .)) (eq .Values.tls.mode "existingSecret") -}}
{{- end -}}
{{- /* The ConfigMap with the relay's policy; empty if there is none. */ -}}
{{- define "culvert.relay.policy" -}}
{{- with .Values.relay.policy -}}
{{- if .configMap -}}{{ .configMap }}{{- else if .rules -}}{{ include "culvert.relay.name" $ }}-policy{{- end -}}
{{- end -}}
{{- end -}}

{{- define "culvert.caConfigMap" -}}{{ include "culvert.relay.name" . }}-ca{{- end -}}

{{- /* Labels that select pods never change; what a version changes is not among them. */ -}}
{{- define "culvert.selector" -}}
app.kubernetes.io/name: {{ include "culvert.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "culvert.labels" -}}
{{ include "culvert.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "culvert.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- $image := .image.repository -}}
{{- if $registry -}}{{- $image = printf "%s/%s" (trimSuffix "/" $registry) $image -}}{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $image .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "culvert.pullSecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Where clients inside of the cluster dial. */ -}}
{{- define "culvert.relay.host" -}}
{{- printf "%s.%s.svc" (include "culvert.relay.name" .) (include "culvert.relay.namespace" .) -}}
{{- end -}}

{{- /* The name of all relays, for agents: they keep a tunnel to every address of it. */ -}}
{{- define "culvert.relay.agentsHost" -}}
{{- printf "%s-agents.%s.svc" (include "culvert.relay.name" .) (include "culvert.relay.namespace" .) -}}
{{- end -}}

{{- /* The name of the relays that are ready: how many there are, for themselves. */ -}}
{{- define "culvert.relay.peersHost" -}}
{{- printf "%s-peers.%s.svc" (include "culvert.relay.name" .) (include "culvert.relay.namespace" .) -}}
{{- end -}}

{{- /* host:port for clients outside, or nothing. */ -}}
{{- define "culvert.relay.external" -}}
{{- with .Values.relay.externalAddress -}}
{{- if regexMatch "^(\\[.*\\]|[^:]*):[0-9]+$" . -}}{{ . }}{{- else -}}{{ printf "%s:%v" . $.Values.relay.service.port }}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The same without the port and without brackets. */ -}}
{{- define "culvert.relay.externalHost" -}}
{{- include "culvert.relay.external" . | regexFind "^.*:" | trimSuffix ":" | trimPrefix "[" | trimSuffix "]" -}}
{{- end -}}

{{- /* All names of the relay's certificate, as a YAML list. */ -}}
{{- define "culvert.relay.certificateNames" -}}
{{- $host := include "culvert.relay.host" . -}}
{{- $names := list $host (printf "%s.%s" $host .Values.clusterDomain) (trimSuffix ".svc" $host) (include "culvert.relay.name" .) (include "culvert.relay.agentsHost" .) -}}
{{- with include "culvert.relay.externalHost" . -}}{{- $names = append $names . -}}{{- end -}}
{{- concat $names .Values.relay.extraNames | uniq | toYaml -}}
{{- end -}}

{{- /* Whether agents get the authority from a ConfigMap that the chart makes. */ -}}
{{- define "culvert.makesCA" -}}
{{- if and (not .Values.tls.caConfigMap.name) (or .Values.tls.caCert (and .Values.relay.enabled (eq .Values.tls.mode "auto"))) -}}true{{- end -}}
{{- end -}}

{{- define "culvert.relay.grace" -}}
{{- $least := add .Values.relay.preStopSeconds .Values.relay.drainSeconds 10 -}}
{{- default $least .Values.relay.terminationGracePeriodSeconds -}}
{{- end -}}
{{- define "culvert.agent.grace" -}}
{{- default (add .Values.agent.drainSeconds 10) .Values.agent.terminationGracePeriodSeconds -}}
{{- end -}}

{{- /* Which pods there are and which may be reached: flags of whoever enters them. */ -}}
{{- define "culvert.agent.podArgs" -}}
{{- with .Values.agent -}}
- --source=containerd
- --containerd-socket={{ .containerdSocket }}
- --netns-dir={{ .netnsDir }}
{{- with .policy.allowNamespaces }}
- --allow-namespaces={{ join "," . }}
{{- end }}
{{- with .policy.denyNamespaces }}
- --deny-namespaces={{ join "," . }}
{{- end }}
{{- with .policy.allowPorts }}
- --allow-ports={{ . }}
{{- end }}
{{- with .policy.denyPorts }}
- --deny-ports={{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* What whoever enters pods needs of the node. */ -}}
{{- define "culvert.agent.podMounts" -}}
# The pods' network namespaces. What the node mounts later shows here too,
# and what it unmounts is not held; nothing goes the other way.
- name: netns
  mountPath: {{ .Values.agent.netnsDir }}
  readOnly: true
  mountPropagation: HostToContainer
# The directory, so that the new socket of a restarted containerd is seen.
# HostToContainer, so that no mount below it is held when its pod is gone.
- name: containerd
  mountPath: {{ dir .Values.agent.containerdSocket }}
  readOnly: true
  mountPropagation: HostToContainer
{{- end -}}

{{- define "culvert.agent.added" -}}
# SYS_ADMIN: setns(2) into a pod's network namespace, for the one system
# call that makes the socket. Nothing else is needed.
add:
  {{- toYaml .Values.agent.capabilities | nindent 2 }}
{{- end -}}

{{- define "culvert.agent.root" -}}
# Root, because a capability that is added reaches only UID 0, and because the
# socket of containerd is root's.
runAsUser: 0
runAsGroup: 0
runAsNonRoot: false
{{- end -}}

{{- /* Who an agent with a broker is. The node's directory that one with a join token
writes to is root's; so is this agent then, without any capability. */ -}}
{{- define "culvert.agent.frontUID" -}}{{ ternary 65532 0 (empty .Values.agent.join.existingSecret) }}{{- end -}}
{{- define "culvert.agent.frontUser" -}}
runAsUser: {{ include "culvert.agent.frontUID" . }}
runAsGroup: 65532
runAsNonRoot: {{ empty .Values.agent.join.existingSecret }}
{{- end -}}
