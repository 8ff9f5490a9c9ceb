# events: what the processor does with descriptors, gates, tasks and exceptions, as a transcript.

EVENTS := events
EVENTS_OUT := $(OUT)/events
EVENTS_PARTS := boot snippets main segments transfers gates doubles v86 tasks
EVENTS_OBJECTS := $(EVENTS_PARTS:%=$(EVENTS_OUT)/%.o)

$(EVENTS_OUT)/%.o: $(EVENTS)/%.c Makefile $(EVENTS)/events.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(GUEST_FLAGS) -MMD -c -o $@ $<

$(EVENTS_OUT)/%.o: $(EVENTS)/%.S Makefile $(EVENTS)/events.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(GUEST_FLAGS) -MMD -c -o $@ $<

$(OUT)/events.elf: $(EVENTS_OBJECTS) $(EVENTS)/events.ld
	@echo '  LD  $@'
	$(Q)$(LD) $(GUEST_LDFLAGS) -T $(EVENTS)/events.ld -o $@ $(EVENTS_OBJECTS)

-include $(EVENTS_OBJECTS:.o=.d)
